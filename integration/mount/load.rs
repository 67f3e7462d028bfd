//! Load generators for trials, which fail where anything about them does.

#[path = "../support/generator.rs"]
mod generator;

use generator::Generator;
pub(crate) use generator::Report;
use std::path::{Path, PathBuf};

/// One load generator.
pub(crate) struct Load(Generator);

impl Load {
    /// A process in a process group of its own that waits for [`Load::open`].
    pub(crate) fn spawn() -> Self {
        Self(Generator::spawn(&program()).expect("a shell"))
    }

    /// Its process id, and that of its process group.
    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Becomes the generator and opens the file; `args` as on its command line.
    pub(crate) fn open(&mut self, file: &Path, args: &str) {
        self.0.open(file, args).expect("a generator");
    }

    /// Starts the requests.
    pub(crate) fn start(&mut self) {
        self.0.start().expect("a generator that listens");
    }

    /// Ends the requests before their time.
    pub(crate) fn stop(&mut self) {
        self.0.stop().expect("a generator that listens");
    }

    /// Waits for the end and the report.
    pub(crate) fn report(&mut self) -> Report {
        self.0.report().expect("a report")
    }
}

/// `cargo test` builds the generator next to the program; a single test target on its own does not.
fn program() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_ioband")).with_file_name("examples").join("load");
    assert!(path.exists(), "{} is missing: run `cargo build --example load` once", path.display());
    path
}
