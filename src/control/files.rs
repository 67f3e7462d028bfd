//! The files of the control directory.

/// A file of the control directory. Their order is that of their inode numbers: add new ones at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlFile {
    /// What was asked for: a table line for every ioband device.
    Table,
    /// What was got: a status line for every ioband device.
    Status,
    /// The last refusals, changes and faults, newest last.
    Events,
    /// The process id of the daemon, so that `ioband umount` can wait for its end.
    Pid,
    /// What is mounted and how it is served, for people.
    Ls,
    /// The running configuration: what is saved here is in force.
    Yaml,
    /// A command is written to it, and its answer read from it.
    Ctl,
    /// What Prometheus reads.
    Metrics,
    /// The table for programs.
    TableJson,
    /// The status for programs.
    StatusJson,
    /// What `ls` says, for programs.
    LsJson,
    /// What the process that serves has given up, for people.
    Sandbox,
}

impl ControlFile {
    /// All of them.
    pub const ALL: [ControlFile; 12] = [
        Self::Table,
        Self::Status,
        Self::Events,
        Self::Pid,
        Self::Ls,
        Self::Yaml,
        Self::Ctl,
        Self::Metrics,
        Self::TableJson,
        Self::StatusJson,
        Self::LsJson,
        Self::Sandbox,
    ];

    /// Its file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Status => "status",
            Self::Events => "events",
            Self::Pid => "pid",
            Self::Ls => "ls",
            Self::Yaml => "control.yaml",
            Self::Ctl => "ctl",
            Self::Metrics => "metrics",
            Self::TableJson => "table.json",
            Self::StatusJson => "status.json",
            Self::LsJson => "ls.json",
            Self::Sandbox => "sandbox",
        }
    }
}
