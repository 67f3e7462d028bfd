//! The files of the control directory.

use super::events::Events;
use super::text::{status_line, table_line};
use crate::engine::Engine;
use std::sync::Arc;

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
}

impl ControlFile {
    /// All of them.
    pub const ALL: [ControlFile; 4] = [Self::Table, Self::Status, Self::Events, Self::Pid];

    /// Its file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Status => "status",
            Self::Events => "events",
            Self::Pid => "pid",
        }
    }
}

/// Where the contents of the control files come from.
#[derive(Debug)]
pub struct Control {
    engines: Vec<Arc<Engine>>,
    /// Every ioband device as (engine, number there), in the order of the configuration.
    devices: Vec<(usize, usize)>,
    events: Arc<Events>,
}

impl Control {
    /// The control files of a mount; `devices` says where each ioband device is, as (engine, number there).
    pub fn new(engines: Vec<Arc<Engine>>, devices: Vec<(usize, usize)>, events: Arc<Events>) -> Self {
        Self { engines, devices, events }
    }

    /// The events of this mount.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// What the file holds now.
    pub fn text(&self, file: ControlFile) -> String {
        match file {
            ControlFile::Table | ControlFile::Status => self.lines(file == ControlFile::Table),
            ControlFile::Events => self.events.text(),
            ControlFile::Pid => format!("{}\n", std::process::id()),
        }
    }

    fn lines(&self, table: bool) -> String {
        let status: Vec<_> = self.engines.iter().map(|engine| (engine.id(), engine.status())).collect();
        let mut text = String::new();
        for &(engine, band) in &self.devices {
            let Some((id, (settings, bands))) = status.get(engine) else { continue };
            let Some(band) = bands.get(band) else { continue };
            text += &if table { table_line(band, *id, settings) } else { status_line(band, *id) };
            text.push('\n');
        }
        text
    }
}
