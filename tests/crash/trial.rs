//! One query over the input, with a table and a checkpoint of its own, and the processes that run it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::disk::literal;

/// After so many starts without an order to die a query must be done.
const MOST_STARTS: usize = 3;

pub struct Trial {
    pub folder: PathBuf,
}

impl Trial {
    /// Writes the script; what is of an earlier trial of the name goes.
    pub fn new(folder: &Path, sql: &str, input: &Path) -> Self {
        let _ = fs::remove_dir_all(folder);
        let trial = Self { folder: folder.to_path_buf() };
        fs::create_dir_all(trial.disk()).unwrap();
        let script = format!(
            "SET minBatchesToRetain = 50;\n\
             CREATE UNBOUNDED EXTERNAL TABLE ev (id BIGINT, ts TIMESTAMP, k STRING, v BIGINT) STORED AS JSON\n\
             LOCATION '{}/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');\n\
             CREATE EXTERNAL TABLE result STORED AS PARQUET LOCATION '{}/' PARTITIONED BY (k);\n\
             CREATE EXTERNAL TABLE late STORED AS PARQUET LOCATION '{}/';\n\
             CREATE FLOW f OUTPUT MODE append TRIGGER AVAILABLE NOW CHECKPOINT '{}' LATE ROWS INTO late\n\
             AS INSERT INTO result\n{sql};\n",
            literal(input),
            literal(&trial.table()),
            literal(&trial.late_table()),
            literal(&trial.checkpoint()),
        );
        fs::write(trial.script(), script).unwrap();
        trial
    }

    /// What a power cut acts on: everything that the command writes.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }

    pub fn table(&self) -> PathBuf {
        self.disk().join("out")
    }

    pub fn late_table(&self) -> PathBuf {
        self.disk().join("late")
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.disk().join("checkpoint")
    }

    pub fn script(&self) -> PathBuf {
        self.folder.join("script.sql")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The failpoints that the run to the end passed, in their order.
    pub fn passes(&self) -> Vec<String> {
        fs::read_to_string(self.folder.join("passes")).unwrap().lines().map(str::to_string).collect()
    }

    /// Starts the command with these variables set.
    pub fn start(&self, variables: &[(&str, &str)]) -> Child {
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("run").arg(self.script()).args(["--lanes", "2"]).envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// Starts the command and waits until it ends, however it does.
    pub fn run(&self, variables: &[(&str, &str)]) -> ExitStatus {
        self.start(variables).wait().unwrap()
    }

    /// Starts the command with an order to send itself a signal; returns whether it died of that.
    pub fn dies(&self, point: &str, pass: u64) -> bool {
        let status = self.run(&[("MILLSTREAM_SIGNAL", &format!("{point}:{pass}:KILL"))]);
        status.code().is_none()
    }

    /// Runs the query until it is done.
    pub fn finish(&self) -> Result<(), String> {
        for _ in 0..MOST_STARTS {
            if self.run(&[]).success() {
                return Ok(());
            }
        }
        Err(format!("it does not end well:\n{}", self.log()))
    }

    /// Runs the query that nobody kills, and notes what it passes.
    pub fn run_to_end(&self) {
        let passes = self.folder.join("passes");
        let status = self.run(&[("MILLSTREAM_PASSES", passes.to_str().unwrap())]);
        assert!(status.success(), "the run that nobody killed ended with {status}:\n{}", self.log());
    }
}
