//! What the process that serves gives up before it serves: a fault in it, found by whoever may send it requests, is then
//! not worth much.
//!
//! Four walls, each of which stands by itself: [`Wall::Capabilities`] of root that serving does not take,
//! [`Wall::Privileges`] that a program could bring, [`Wall::Seccomp`] for system calls, [`Wall::Landlock`] for files and the
//! network. A machine without one of them is served without it, and is told so; one that can be built in part only is an
//! error. Each can be left out, to find a fault or to use a debugger.
//!
//! What remains: whoever took over the process could read and write the devices of the mount and other files of its
//! user (devices are opened by their paths when the configuration changes, wherever they are; as root that is every file), and
//! answer requests wrongly. He could not run a program, make a process, mount, load code into the kernel, look into another process or
//! signal it, make a connection by TCP, or change the owner of anything but a file.
//!
//! It is no prison. io_uring does some calls without asking the filter for system calls, and makes sockets for datagrams among
//! them, which Landlock does not know; capabilities and Landlock hold there as well. Sockets with paths are needed for name
//! services, and as root they lead to other services of the machine, which do as root tells them. And memory that is both written
//! and run is refused, but not memory that is run after it was written.
#![forbid(unsafe_code)]

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod calls;
mod capabilities;
mod files;
mod privileges;
mod seccomp;

use serde::Serialize;
use std::fmt;

/// A part of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wall {
    /// Root's capabilities are dropped, but for a few.
    Capabilities,
    /// No program brings new privileges, and nobody else of this user looks into the process.
    Privileges,
    /// System calls that serving does not take are refused, and hostile ones end the process.
    Seccomp,
    /// No running of programs, no new devices, folders and links, no TCP.
    Landlock,
}

impl Wall {
    /// All of them, in the order in which they are built: one must not be in the way of the next.
    pub const ALL: [Self; 4] = [Self::Landlock, Self::Capabilities, Self::Privileges, Self::Seccomp];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Capabilities => "capabilities",
            Self::Privileges => "privileges",
            Self::Seccomp => "seccomp",
            Self::Landlock => "landlock",
        }
    }
}

/// What became of a wall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It stands; what it keeps out.
    InForce(String),
    /// It was not asked for.
    Off,
    /// It is not to be had here; why.
    NotAvailable(String),
}

/// What is in force and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report(pub Vec<(Wall, State)>);

impl Report {
    /// The walls that were asked for and are not to be had, each with the reason.
    pub fn missing(&self) -> impl Iterator<Item = (Wall, &str)> {
        self.0.iter().filter_map(|(wall, state)| match state {
            State::NotAvailable(why) => Some((*wall, why.as_str())),
            _ => None,
        })
    }
}

/// A line for each wall.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (wall, state) in &self.0 {
            let name = wall.name();
            match state {
                State::InForce(what) => writeln!(f, "{name:13} {what}")?,
                State::Off => writeln!(f, "{name:13} switched off (--no-sandbox)")?,
                State::NotAvailable(why) => writeln!(f, "{name:13} not available: {why}")?,
            }
        }
        Ok(())
    }
}

/// Why a process is not in its sandbox, and had better not go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Threads that are there already would be left outside.
    #[error("the sandbox is entered by a process of one thread, and this has {0}")]
    Threads(usize),
    /// It began, and did not come to its end.
    #[error("the sandbox stands half ({}): {why}; `--no-sandbox={}` does without", .wall.name(), .wall.name())]
    Half {
        /// What was to be built.
        wall: Wall,
        /// What was in the way.
        why: String,
    },
}

/// What a wall ends with: what it keeps out, or why it is not to be had.
type Built = Result<Result<String, String>, SandboxError>;

fn half<T>(wall: Wall, why: impl fmt::Display) -> Result<T, SandboxError> {
    Err(SandboxError::Half { wall, why: why.to_string() })
}

/// Gives up what serving does not take, for good, for this process and all its threads to come. To be called before there is
/// more than one, and before anything is read that others wrote. `off` is left out.
///
/// # Errors
/// When there are threads already, or something was given up in part.
pub fn enter(off: &[Wall]) -> Result<Report, SandboxError> {
    // Without /proc there are no callers to be looked up either; that is told elsewhere.
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(SandboxError::Threads(threads));
    }
    let mut report = Report::default();
    for wall in Wall::ALL {
        if off.contains(&wall) {
            report.0.push((wall, State::Off));
            continue;
        }
        let built = match wall {
            Wall::Landlock => files::restrict(),
            Wall::Capabilities => capabilities::drop(),
            Wall::Privileges => privileges::renounce(),
            Wall::Seccomp => seccomp::filter(),
        }?;
        report.0.push((wall, built.map_or_else(State::NotAvailable, State::InForce)));
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_a_line_for_each() {
        let report = Report(vec![
            (Wall::Landlock, State::NotAvailable("the kernel is older than 5.13".into())),
            (Wall::Capabilities, State::Off),
            (Wall::Privileges, State::InForce("no new ones".into())),
        ]);
        assert_eq!(
            report.to_string(),
            "landlock      not available: the kernel is older than 5.13\n\
             capabilities  switched off (--no-sandbox)\n\
             privileges    no new ones\n"
        );
        assert_eq!(report.missing().collect::<Vec<_>>(), [(Wall::Landlock, "the kernel is older than 5.13")]);
    }

    #[test]
    fn a_process_with_threads_stays_out() {
        // The test runner has some; to be sure, one more.
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        assert!(matches!(enter(&[]), Err(SandboxError::Threads(2..))));
        drop(done);
        let _ = other.join();
    }
}
