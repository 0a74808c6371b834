//! Kafka → windowed count → Parquet, and Kafka → Kafka in transactions, while the process is killed and the broker bounced
//! at random: nothing is lost, nothing comes twice.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rdkafka::producer::Producer;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::cluster::{Real, SOON, Sent, producer, received, send, table, write};
use crate::answer::{Bag, bag, difference};
use crate::disk::{Table, literal};
use crate::kill::Dice;
use crate::scenario::timestamp;

const PARTITIONS: i32 = 3;
const MESSAGES: i64 = 3_000;
const WINDOW_MS: i64 = 10_000;

fn seed() -> u64 {
    std::env::var("KILL_SEED").map_or(1, |seed| seed.parse().expect("KILL_SEED is a number"))
}

/// The messages: each key has its partition, event times run on together.
fn messages() -> Vec<Sent> {
    let message = |id: i64| {
        let value = json!({"id": id, "ts": timestamp(id * 100), "k": format!("k{}", id % 7)});
        Sent {
            key: Some(format!("k{}", id % 7)),
            ..Sent::to((id % 7 % i64::from(PARTITIONS)) as i32, value.to_string())
        }
    };
    (0..MESSAGES).map(message).collect()
}

/// A script of its own, run again and again until it ends by itself.
struct Trial {
    folder: TempDir,
}

impl Trial {
    fn new(script: impl FnOnce(&std::path::Path) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("script.sql"), script(folder.path())).unwrap();
        Self { folder }
    }

    fn command(&self) -> Command {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("run").arg(self.folder.path().join("script.sql"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command
    }

    fn start(&self) -> Child {
        self.command().spawn().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Kills it at random moments until that is enough, and it ends by itself. Returns how many kills hit. `feed` sends more,
    /// and says whether there is more to be sent.
    #[allow(clippy::disallowed_methods)] // a process is killed in real time
    fn under_fire(&self, dice: &mut Dice, kills_at_least: usize, mut feed: impl FnMut() -> bool) -> usize {
        let mut kills = 0;
        for _ in 0..300 {
            let is_enough = !feed() && kills >= kills_at_least;
            let mut child = self.start();
            let longest = if is_enough { 60_000 } else { 900 };
            let deadline = std::time::Instant::now()
                + Duration::from_millis(30)
                + Duration::from_millis(longest).mul_f64(dice.fraction());
            let ended = loop {
                match child.try_wait().unwrap() {
                    Some(status) => break Some(status),
                    None if std::time::Instant::now() >= deadline => break None,
                    None => std::thread::sleep(Duration::from_millis(2)),
                }
            };
            match ended {
                Some(status) if status.success() && is_enough => return kills,
                // The broker was away for too long for it, or for a transaction of it; or it was done before a kill hit.
                Some(status) => assert!(status.code().is_some(), "{status}: {}", self.log()),
                None => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    kills += 1;
                }
            }
        }
        panic!("it does not end: {}", self.log());
    }
}

/// Kills the broker and starts it again, at random, until it is told to stop.
struct Bouncer {
    stop: Arc<AtomicBool>,
    bounces: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Bouncer {
    fn start(mut dice: Dice) -> Self {
        let (stop, bounces) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&bounces));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) && counted.load(Ordering::SeqCst) < 4 {
                std::thread::sleep(Duration::from_millis(1_500) + Duration::from_secs(4).mul_f64(dice.fraction()));
                Real::script(&["kill"]);
                std::thread::sleep(Duration::from_secs(2).mul_f64(dice.fraction()));
                Real::script(&["start"]);
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { stop, bounces, thread: Some(thread) }
    }

    /// How often the broker was bounced.
    fn bounces(&self) -> usize {
        self.bounces.load(Ordering::SeqCst)
    }

    /// Stops, and returns how often the broker was bounced; it is up.
    fn stop(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        self.bounces()
    }
}

/// Runs a trial while the broker is bounced. A portion of the messages comes before each run, the last ones when the broker
/// was bounced twice, so that there is something to do whenever something happens.
fn trial_by_fire(trial: &Trial, real: &Real, topic: &str) {
    let seed = seed();
    let bouncer = Bouncer::start(Dice(seed));
    // It is there again soon after the broker is, and sends nothing twice.
    let settings =
        [("enable.idempotence", "true"), ("reconnect.backoff.max.ms", "250"), ("retry.backoff.max.ms", "250")];
    let producer = producer(&real.servers, &settings);
    let messages = messages();
    let mut portions = messages.chunks(messages.len() / 16).collect::<VecDeque<_>>();
    let feed = || {
        if (portions.len() > 4 || bouncer.bounces() >= 2)
            && let Some(portion) = portions.pop_front()
        {
            write(&producer, topic, portion);
            producer.flush(4 * SOON).unwrap();
        }
        !portions.is_empty()
    };
    let kills = trial.under_fire(&mut Dice(seed ^ 0xf1e1d), 12, feed);
    let bounces = bouncer.stop();
    eprintln!("seed {seed}: {kills} kills, {bounces} bounces");
    assert!(kills >= 12 && bounces >= 2, "{kills} kills and {bounces} bounces show nothing");
}

fn source(servers: &str, topic: &str) -> String {
    let options = [
        ("subscribe", topic),
        ("startingOffsets", "earliest"),
        ("maxOffsetsPerTrigger", "60"),
        ("format", "json"),
        ("kafka.reconnect.backoff.max.ms", "500"),
    ];
    table("t", "(id BIGINT, ts TIMESTAMP, k STRING)", servers, &options)
}

/// Copies a topic to another in transactions.
fn copied(real: &Real, topic: &str, target: &str, folder: &std::path::Path) -> String {
    source(&real.servers, topic)
        + &format!(
            "CREATE EXTERNAL TABLE o STORED AS KAFKA OPTIONS ('kafka.bootstrap.servers' '{}', 'topic' '{target}', \
             'exactlyOnce' 'true', 'format' 'json');\n\
             CREATE FLOW f TRIGGER AVAILABLE NOW CHECKPOINT '{}' AS INSERT INTO o SELECT id, k AS _key, k FROM STREAM t;",
            real.servers,
            literal(&folder.join("ck"))
        )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn a_windowed_count_reaches_parquet_exactly_once() {
    let real = Real::find();
    let topic = real.topic("fire", PARTITIONS).await;
    let trial = Trial::new(|folder| {
        source(&real.servers, &topic)
            + &format!(
                "CREATE EXTERNAL TABLE o STORED AS PARQUET LOCATION '{}/';\n\
                 CREATE FLOW f TRIGGER AVAILABLE NOW CHECKPOINT '{}' AS INSERT INTO o\n\
                 SELECT window.start AS ws, k, count(*) AS n, sum(id) AS ids\n\
                 FROM STREAM t WATERMARK ts DELAY OF INTERVAL 60 SECONDS GROUP BY window(ts, '10 seconds'), k;",
                literal(&folder.join("out")),
                literal(&folder.join("ck"))
            )
    });
    let trial = tokio::task::spawn_blocking(move || {
        trial_by_fire(&trial, &real, &topic);
        trial
    })
    .await
    .unwrap();
    let mut counted = BTreeMap::<(i64, i64), (i64, i64)>::new();
    for id in 0..MESSAGES {
        let (n, ids) = counted.entry((id * 100 / WINDOW_MS * WINDOW_MS, id % 7)).or_default();
        (*n, *ids) = (*n + 1, *ids + id);
    }
    let closed_ms = (MESSAGES - 1) * 100 - 60_000;
    let closed = counted.into_iter().filter(|((start_ms, _), _)| start_ms + WINDOW_MS <= closed_ms);
    let row = |((start_ms, k), (n, ids)): ((i64, i64), (i64, i64))| json!({"ws": timestamp(start_ms), "k": format!("k{k}"), "n": n, "ids": ids});
    let want: Bag = bag(&closed.map(row).collect::<Vec<Value>>());
    assert!(want.len() > 100);
    let have = Table::parquet(out(&trial)).rows().await.unwrap();
    if let Some(why) = difference(&want, &have) {
        panic!("{why}\n{}", trial.log());
    }
}

fn out(trial: &Trial) -> PathBuf {
    trial.folder.path().join("out")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn messages_reach_another_topic_exactly_once() {
    let real = Real::find();
    let topic = real.topic("fire", PARTITIONS).await;
    let target = real.topic("fire-out", PARTITIONS).await;
    let trial = Trial::new(|folder| copied(&real, &topic, &target, folder));
    let (trial, real) = tokio::task::spawn_blocking(move || {
        trial_by_fire(&trial, &real, &topic);
        (trial, real)
    })
    .await
    .unwrap();
    let row = |id: i64| json!({"id": id, "k": format!("k{}", id % 7)});
    let want = bag(&(0..MESSAGES).map(row).collect::<Vec<_>>());
    let values: Vec<Value> = tokio::task::spawn_blocking(move || received(&real.servers, &target))
        .await
        .unwrap()
        .values()
        .map(|sent| serde_json::from_str(&sent.text()).unwrap())
        .collect();
    if let Some(why) = difference(&want, &bag(&values)) {
        panic!("{why}\n{}", trial.log());
    }
}

/// The process dies just before and just after a transaction is committed, and before and after the batch is decided: what
/// is in Kafka already is not written again, and what is not, is.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn a_process_that_dies_around_a_transaction_writes_each_row_once() {
    let real = Real::find();
    let topic = real.topic("around", PARTITIONS).await;
    let sent: Vec<Sent> = messages().into_iter().take(300).collect();
    send(&real.servers, &topic, &sent);
    let row = |id: i64| json!({"id": id, "k": format!("k{}", id % 7)});
    let want = bag(&(0..300).map(row).collect::<Vec<_>>());
    let others = ["offset_log.written", "commit_log.temp_written", "commit_log.written"];
    for point in millstream::failpoints::KAFKA_POINTS.iter().chain(&others) {
        // The first transaction notes where the run stands.
        for pass in [1, 2, 3] {
            let target = real.topic("around-out", PARTITIONS).await;
            let trial = Trial::new(|folder| copied(&real, &topic, &target, folder));
            let signal = format!("{point}:{pass}:KILL");
            let killed = trial.command().env("MILLSTREAM_SIGNAL", &signal).status().unwrap();
            assert_eq!(killed.code(), None, "{signal}: it was to die: {}", trial.log());
            let ended = trial.command().status().unwrap();
            assert!(ended.success(), "{signal}: {}", trial.log());
            let values: Vec<Value> = received(&real.servers, &target)
                .values()
                .map(|sent| serde_json::from_str(&sent.text()).unwrap())
                .collect();
            if let Some(why) = difference(&want, &bag(&values)) {
                panic!("{signal}: {why}\n{}", trial.log());
            }
        }
    }
}
