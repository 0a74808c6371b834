//! What only a real Kafka does: marks of transactions between messages, offsets of times, topics that grow, age and are
//! made anew, and rights.

use rdkafka::producer::Producer;

use super::cluster::{Real, SOON, Sent, ask, column, failure, producer, rows, send, table, write};

const EARLIEST: (&str, &str) = ("startingOffsets", "earliest");

const VALUES: &str = "SELECT CAST(value AS STRING) AS v, \"partition\", \"offset\" FROM STREAM t";

async fn read(real: &Real, topic: &str, options: &[(&str, &str)], clauses: &str) -> crate::case::Outcome {
    let options = [&[("subscribe", topic)], options].concat();
    ask(&table("t", "", &real.servers, &options), VALUES, clauses).await
}

fn texts(from: usize, to: usize) -> Vec<Sent> {
    (from..to).map(|number| Sent::to(0, number.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn transactions_leave_gaps_and_what_was_given_up_is_not_read() {
    let (real, home) = (Real::find(), tempfile::tempdir().unwrap());
    let topic = real.topic("gaps", 1).await;
    let id = format!("test-{topic}");
    let writer = producer(&real.servers, &[("transactional.id", id.as_str())]);
    writer.init_transactions(SOON).unwrap();
    let transaction = |from: usize, to: usize, is_kept: bool| {
        writer.begin_transaction().unwrap();
        write(&writer, &topic, &texts(from, to));
        writer.flush(SOON).unwrap();
        if is_kept { writer.commit_transaction(SOON).unwrap() } else { writer.abort_transaction(SOON).unwrap() }
    };
    transaction(0, 10, true);
    transaction(10, 20, false);
    transaction(20, 30, true);
    let checkpoint = format!("CHECKPOINT '{}'", home.path().join("ck").display());
    let kept: Vec<String> = (0..10).chain(20..30).map(|number: usize| number.to_string()).collect();
    // Batches of one message end now at a message, now at a mark, now among what was given up.
    for limit in ["1", "3", "1000"] {
        let outcome = read(&real, &topic, &[EARLIEST, ("maxOffsetsPerTrigger", limit)], "").await;
        assert_eq!(column(&outcome, "v"), kept, "{limit}");
    }
    assert_eq!(column(&read(&real, &topic, &[EARLIEST], &checkpoint).await, "v"), kept);
    transaction(30, 31, false);
    assert!(rows(&read(&real, &topic, &[EARLIEST], &checkpoint).await).is_empty());
    transaction(31, 33, true);
    assert_eq!(column(&read(&real, &topic, &[EARLIEST], &checkpoint).await, "v"), ["31", "32"]);

    // What is open is not read, and what comes after it waits for it.
    writer.begin_transaction().unwrap();
    write(&writer, &topic, &texts(33, 34));
    writer.flush(SOON).unwrap();
    send(&real.servers, &topic, &texts(34, 35));
    assert!(rows(&read(&real, &topic, &[EARLIEST], &checkpoint).await).is_empty());
    let uncommitted = [EARLIEST, ("kafka.isolation.level", "read_uncommitted")];
    assert_eq!(rows(&read(&real, &topic, &uncommitted, "").await).len(), 35);
    writer.commit_transaction(SOON).unwrap();
    assert_eq!(column(&read(&real, &topic, &[EARLIEST], &checkpoint).await, "v"), ["33", "34"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn a_query_begins_at_a_time() {
    let real = Real::find();
    let topic = real.topic("times", 1).await;
    send(&real.servers, &topic, &texts(0, 5));
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let middle_ms = chrono::Utc::now().timestamp_millis();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    send(&real.servers, &topic, &texts(5, 8));
    let middle = middle_ms.to_string();
    let outcome = read(&real, &topic, &[("startingTimestamp", &middle)], "").await;
    assert_eq!(column(&outcome, "v"), ["5", "6", "7"]);
    let by_partition = format!("{{\"{topic}\":{{\"0\":{middle}}}}}");
    let outcome = read(&real, &topic, &[("startingOffsetsByTimestamp", &by_partition)], "").await;
    assert_eq!(column(&outcome, "v"), ["5", "6", "7"]);
    let later = (middle_ms + 3_600_000).to_string();
    let error = failure(&read(&real, &topic, &[("startingTimestamp", &later)], "").await);
    assert!(error.contains("no message of the time") && error.contains("Strategy"), "{error}");
    let falls = [("startingTimestamp", later.as_str()), ("startingOffsetsByTimestampStrategy", "latest")];
    assert!(rows(&read(&real, &topic, &falls, "").await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn new_partitions_are_read_from_their_beginning() {
    let (real, home) = (Real::find(), tempfile::tempdir().unwrap());
    let topic = real.topic("grows", 1).await;
    let checkpoint = format!("CHECKPOINT '{}'", home.path().join("ck").display());
    assert!(rows(&read(&real, &topic, &[], &checkpoint).await).is_empty());
    real.grow(&topic, 3).await;
    send(&real.servers, &topic, &[Sent::to(0, "a"), Sent::to(2, "b")]);
    assert_eq!(column(&read(&real, &topic, &[], &checkpoint).await, "v"), ["a", "b"]);
    send(&real.servers, &topic, &[Sent::to(1, "c"), Sent::to(2, "d")]);
    assert_eq!(column(&read(&real, &topic, &[], &checkpoint).await, "v"), ["c", "d"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn data_that_is_lost_is_told_or_reported() {
    let (real, home) = (Real::find(), tempfile::tempdir().unwrap());
    let aged = real.topic("aged", 1).await;
    let checkpoint = |name: &str| format!("CHECKPOINT '{}'", home.path().join(name).display());
    let lenient = [EARLIEST, ("failOnDataLoss", "false")];
    send(&real.servers, &aged, &texts(0, 3));
    read(&real, &aged, &[EARLIEST], &checkpoint("aged")).await.end.unwrap();
    send(&real.servers, &aged, &texts(3, 10));
    real.age_out(&aged, 6).await;
    let error = failure(&read(&real, &aged, &[EARLIEST], &checkpoint("aged")).await);
    assert!(
        error.contains("offset 3 is to be read and there are 6 to 10") && error.contains("failOnDataLoss"),
        "{error}"
    );
    assert_eq!(column(&read(&real, &aged, &lenient, &checkpoint("aged")).await, "v"), ["6", "7", "8", "9"]);

    // A whole batch of what is gone: the next goes on behind it.
    let offset = format!("{{\"{aged}\":{{\"0\":1}}}}");
    let skipped = [("startingOffsets", offset.as_str()), ("failOnDataLoss", "false"), ("maxOffsetsPerTrigger", "3")];
    assert_eq!(column(&read(&real, &aged, &skipped, "").await, "v"), ["6", "7", "8", "9"]);
    let unsubscribed = read(&real, &real.topic("other", 1).await, &[EARLIEST], &checkpoint("aged")).await;
    let error = failure(&unsubscribed);
    assert!(error.contains("not subscribed to any more"), "{error}");

    let again = real.topic("again", 1).await;
    send(&real.servers, &again, &texts(0, 5));
    read(&real, &again, &[EARLIEST], &checkpoint("again")).await.end.unwrap();
    real.delete(&again).await;
    let error = failure(&read(&real, &again, &[EARLIEST], &checkpoint("again")).await);
    assert!(error.contains("does not exist"), "{error}");
    real.named_topic(&again, 1).await;
    send(&real.servers, &again, &texts(0, 2));
    let error = failure(&read(&real, &again, &[EARLIEST], &checkpoint("again")).await);
    assert!(error.contains("offset 5 is to be read next, and it ends before 2"), "{error}");
    assert_eq!(column(&read(&real, &again, &lenient, &checkpoint("again")).await, "v"), ["0", "1"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn logins_and_rights_are_checked() {
    let real = Real::find();
    let topic = real.topic("rights", 1).await;
    send(&real.servers, &topic, &texts(0, 2));
    let (host, port) = real.servers.rsplit_once(':').unwrap();
    let sasl = format!("{host}:{}", port.parse::<u16>().unwrap() + 1);
    let login = async |user: &str, password: &str| {
        let jaas = format!(
            "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"{user}\" password=\"{password}\";"
        );
        let options = [
            ("subscribe", topic.as_str()),
            EARLIEST,
            ("kafka.security.protocol", "SASL_PLAINTEXT"),
            ("kafka.sasl.mechanism", "PLAIN"),
            ("kafka.sasl.jaas.config", jaas.as_str()),
            ("kafka.default.api.timeout.ms", "4000"),
        ];
        ask(&table("t", "", &sasl, &options), VALUES, "").await
    };
    assert_eq!(column(&login("alice", "alice-secret").await, "v"), ["0", "1"]);
    let error = failure(&login("bob", "bob-secret").await);
    assert!(error.contains(&topic) && error.contains("no right"), "{error}");
    let error = failure(&login("alice", "hunter2").await);
    assert!(error.contains("refused the login"), "{error}");
    assert!(error.to_lowercase().contains("authentication") && !error.contains("hunter2"), "{error}");
    // A login where none is expected, and none where one is.
    let error = failure(
        &ask(&table("t", "", &sasl, &[("subscribe", &topic), ("kafka.default.api.timeout.ms", "3000")]), VALUES, "")
            .await,
    );
    assert!(error.contains("no answer from") && error.contains("kafka.security.protocol"), "{error}");
}

/// Everything that a login is used for leaves no trace of its password.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn a_password_is_told_to_the_broker_alone() {
    let (real, home) = (Real::find(), tempfile::tempdir().unwrap());
    let (topic, target) = (real.topic("told", 1).await, real.topic("told-out", 1).await);
    send(&real.servers, &topic, &texts(0, 2));
    let (host, port) = real.servers.rsplit_once(':').unwrap();
    let sasl = format!("{host}:{}", port.parse::<u16>().unwrap() + 1);
    let login = [
        ("startingOffsets", "earliest"),
        ("kafka.security.protocol", "SASL_PLAINTEXT"),
        ("kafka.sasl.mechanism", "PLAIN"),
        ("kafka.sasl.username", "alice"),
        ("kafka.sasl.password", "alice-secret"),
        ("kafka.debug", "security,broker,topic,protocol,eos,fetch,msg"),
    ];
    let tables = table("t", "", &sasl, &[&[("subscribe", topic.as_str())], &login[..]].concat())
        + &table("o", "", &sasl, &[&[("topic", target.as_str()), ("exactlyOnce", "true")], &login[..]].concat());
    let checkpoint = home.path().join("ck");
    let flow = format!(
        "CREATE FLOW f TRIGGER AVAILABLE NOW CHECKPOINT '{}' AS INSERT INTO o SELECT value FROM STREAM t",
        crate::disk::literal(&checkpoint)
    );
    let script = format!("{tables} EXPLAIN {flow}; {flow};");
    std::fs::write(home.path().join("script.sql"), script).unwrap();
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_millstream"))
        .arg("run")
        .arg(home.path().join("script.sql"))
        .env("MILLSTREAM_LOG", "trace")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let (told, log) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{told}{log}");
    // A log that is off tells nothing.
    assert!(log.contains("alice") || log.contains("SASL"), "{log}");
    assert!(!told.contains("alice-secret") && !log.contains("alice-secret"), "{told}{log}");
    let files = crate::disk::files_below(&checkpoint);
    assert!(files.contains_key("commits/0"), "{:?}", files.keys());
    for (file, bytes) in files {
        assert!(!String::from_utf8_lossy(&bytes).contains("alice-secret"), "{file}");
    }
    assert_eq!(super::cluster::received(&real.servers, &target).len(), 2);
}

/// A new checkpoint under an old transactional id writes its own batches.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn a_transactional_id_says_nothing_of_another_checkpoint() {
    let (real, home) = (Real::find(), tempfile::tempdir().unwrap());
    let (topic, target) = (real.topic("shared", 1).await, real.topic("shared-out", 1).await);
    send(&real.servers, &topic, &texts(0, 2));
    let id = format!("id-{target}");
    let copy = async |checkpoint: &str, more: &[(&str, &str)]| {
        let options = [&[("topic", target.as_str()), ("exactlyOnce", "true")], more].concat();
        let script = table("t", "", &real.servers, &[("subscribe", &topic), EARLIEST])
            + &table("o", "", &real.servers, &options)
            + &format!(
                "CREATE FLOW f TRIGGER AVAILABLE NOW CHECKPOINT '{}' AS INSERT INTO o SELECT value FROM STREAM t;",
                crate::disk::literal(&home.path().join(checkpoint))
            );
        crate::case::run_script(&script).await.end
    };
    let own = [("kafka.transactional.id", id.as_str())];
    copy("a", &own).await.unwrap();
    copy("b", &own).await.unwrap();
    assert_eq!(super::cluster::received(&real.servers, &target).len(), 4, "each wrote both");
    // The note is the other's by now. As long as no batch is in doubt that does not matter.
    send(&real.servers, &topic, &texts(2, 3));
    copy("a", &own).await.unwrap();
    copy("b", &own).await.unwrap();
    assert_eq!(super::cluster::received(&real.servers, &target).len(), 6);
    std::fs::remove_file(home.path().join("a/commits/1")).unwrap();
    let error = copy("a", &own).await.unwrap_err();
    assert!(error.to_string().contains("cannot be told") && error.to_string().contains(&id), "{error}");
    copy("c", &[]).await.unwrap();
    copy("c", &[]).await.unwrap();
    assert_eq!(super::cluster::received(&real.servers, &target).len(), 9);

    // Nor does a checkpoint that was set back lose what it has not read: it says that rows would come again.
    send(&real.servers, &topic, &texts(3, 4));
    copy("c", &[]).await.unwrap();
    let mut rewind = std::process::Command::new(env!("CARGO_BIN_EXE_millstream"));
    let rewound =
        rewind.args(["checkpoint", "rewind"]).arg(home.path().join("c")).args(["--to", "0"]).output().unwrap();
    assert!(rewound.status.success(), "{}", String::from_utf8_lossy(&rewound.stderr));
    let error = copy("c", &[]).await.unwrap_err();
    assert!(error.to_string().contains("it was rewound, or is a copy"), "{error}");
    copy("c", &own).await.unwrap();
    assert_eq!(super::cluster::received(&real.servers, &target).len(), 11);
}

/// What the brokers said of the topic while it was gone does not count when it is back.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn a_topic_that_is_made_anew_under_a_query_is_read_from_its_beginning() {
    let real = Real::find();
    let topic = real.topic("anew", 2).await;
    send(&real.servers, &topic, &texts(0, 5));
    let options = [
        ("subscribe", topic.as_str()),
        ("failOnDataLoss", "false"),
        ("kafka.topic.metadata.propagation.max.ms", "0"),
        ("kafka.topic.metadata.refresh.interval.ms", "200"),
    ];
    let watched = super::faults::running(&table("t", "", &real.servers, &[&options[..], &[EARLIEST]].concat())).await;
    super::faults::until(&watched, 5).await;
    // Shorter each time: one of the same length would not be noticed.
    for (from, to, all) in [(10, 13, 8), (20, 22, 10)] {
        real.delete(&topic).await;
        // The client is to hear of it.
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        real.named_topic(&topic, 2).await;
        send(&real.servers, &topic, &texts(from, to));
        super::faults::until(&watched, all).await;
    }
    assert_eq!(super::faults::came(&watched), ["0", "1", "2", "3", "4", "10", "11", "12", "20", "21"]);
}

/// A pattern means topics of users.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn no_pattern_means_topics_of_the_brokers_own() {
    let (real, home) = (Real::find(), tempfile::tempdir().unwrap());
    let (topic, target) = (real.topic("own", 1).await, real.topic("own-out", 1).await);
    send(&real.servers, &topic, &texts(0, 3));
    let pattern = format!("__.*|{topic}");
    let script = table("t", "", &real.servers, &[("subscribePattern", &pattern), EARLIEST])
        + &table("o", "", &real.servers, &[("topic", &target), ("exactlyOnce", "true")])
        + &format!(
            "CREATE FLOW f TRIGGER AVAILABLE NOW CHECKPOINT '{}' AS INSERT INTO o SELECT value FROM STREAM t;",
            crate::disk::literal(&home.path().join("ck"))
        );
    for _ in 0..2 {
        crate::case::run_script(&script).await.end.unwrap();
    }
    assert_eq!(super::cluster::received(&real.servers, &target).len(), 3);
}

/// With TLS: the broker's certificate is checked, and names what is wrong with it.
#[cfg(feature = "kafka-ssl")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real Kafka: tests/services/kafka.sh up"]
async fn tls_is_spoken_with_brokers_that_the_ca_knows() {
    let real = Real::find();
    let topic = real.topic("tls", 1).await;
    send(&real.servers, &topic, &texts(0, 2));
    let (host, port) = real.servers.rsplit_once(':').unwrap();
    let tls = format!("{host}:{}", port.parse::<u16>().unwrap() + 2);
    let ca = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/services/kafka/ca.pem");
    let ca = ca.to_str().unwrap();
    let login = [
        ("subscribe", topic.as_str()),
        ("startingOffsets", "earliest"),
        ("kafka.security.protocol", "SASL_SSL"),
        ("kafka.sasl.mechanism", "PLAIN"),
        ("kafka.sasl.username", "alice"),
        ("kafka.sasl.password", "alice-secret"),
        ("kafka.default.api.timeout.ms", "5000"),
    ];
    let known = [&login[..], &[("kafka.ssl.ca.location", ca)]].concat();
    assert_eq!(column(&ask(&table("t", "", &tls, &known), VALUES, "").await, "v"), ["0", "1"]);
    let error = failure(&ask(&table("t", "", &tls, &login), VALUES, "").await);
    assert!(error.contains("certificate verify failed"), "{error}");
    // SCRAM is there too; alice has no such login.
    let scram: Vec<(&str, &str)> = known
        .iter()
        .map(|(name, value)| (*name, if *name == "kafka.sasl.mechanism" { "SCRAM-SHA-512" } else { *value }))
        .collect();
    let error = failure(&ask(&table("t", "", &tls, &scram), VALUES, "").await);
    assert!(error.contains("refused the login"), "{error}");
}

/// Without it, options that need it say how to get it.
#[cfg(not(feature = "kafka-ssl"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_build_without_tls_says_how_to_get_it() {
    for option in [("kafka.security.protocol", "SASL_SSL"), ("kafka.ssl.ca.location", "/nowhere.pem")] {
        let error = failure(&ask(&table("t", "", "localhost:1", &[("subscribe", "t"), option]), VALUES, "").await);
        assert!(error.contains("kafka-ssl"), "{option:?}: {error}");
    }
    let scram =
        [("subscribe", "t"), ("kafka.security.protocol", "SASL_PLAINTEXT"), ("kafka.sasl.mechanism", "SCRAM-SHA-256")];
    let error = failure(&ask(&table("t", "", "localhost:1", &scram), VALUES, "").await);
    assert!(error.contains("kafka-ssl"), "{error}");
}
