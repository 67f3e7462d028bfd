//! The kernel's switch for FUSE over io_uring, left as it was found whatever happens.

use anyhow::Context;
use std::fs;

const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// It is on.
pub(super) struct On {
    was: String,
}

impl On {
    pub(super) fn turn() -> anyhow::Result<Self> {
        // Loads the module, if that was not done yet.
        let _ = fs::File::open("/dev/fuse");
        let was = fs::read_to_string(SWITCH)
            .with_context(|| format!("this kernel has no FUSE over io_uring: cannot read {SWITCH}"))?;
        let on = Self { was: was.trim().to_owned() };
        if on.was != "Y" {
            set("Y")?;
        }
        Ok(on)
    }
}

impl Drop for On {
    fn drop(&mut self) {
        if self.was != "Y"
            && let Err(error) = set(&self.was)
        {
            eprintln!("left behind: {error:#}");
        }
    }
}

fn set(value: &str) -> anyhow::Result<()> {
    fs::write(SWITCH, value).with_context(|| format!("cannot write {value} to {SWITCH}"))
}
