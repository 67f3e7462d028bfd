//! The files of the control directory.

use super::events::Events;
use super::ls::{ImageLine, Service, device_lines, image_lines, service_lines};
use super::text::{status_line, table_line};
use crate::engine::{BandStatus, Engine};
use crate::sched::Settings;
use std::sync::{Arc, OnceLock};

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
}

impl ControlFile {
    /// All of them.
    pub const ALL: [ControlFile; 5] = [Self::Table, Self::Status, Self::Events, Self::Pid, Self::Ls];

    /// Its file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Status => "status",
            Self::Events => "events",
            Self::Pid => "pid",
            Self::Ls => "ls",
        }
    }
}

/// Where the contents of the control files come from.
pub struct Control {
    engines: Vec<Arc<Engine>>,
    /// Every ioband device as (engine, number there), in the order of the configuration.
    devices: Vec<(usize, usize)>,
    events: Arc<Events>,
    /// Asks how the mount is served, once it is.
    service: OnceLock<Box<dyn Fn() -> Service + Send + Sync>>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("devices", &self.devices).finish_non_exhaustive()
    }
}

impl Control {
    /// The control files of a mount; `devices` says where each ioband device is, as (engine, number there).
    pub fn new(engines: Vec<Arc<Engine>>, devices: Vec<(usize, usize)>, events: Arc<Events>) -> Self {
        Self { engines, devices, events, service: OnceLock::new() }
    }

    /// The events of this mount.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Says how to ask how the mount is served; the first one stands.
    pub fn describe_service(&self, service: impl Fn() -> Service + Send + Sync + 'static) {
        if self.service.set(Box::new(service)).is_err() {
            debug_assert!(false, "a mount is served once");
        }
    }

    /// What the file holds now; `images` are those of the mount.
    pub fn text(&self, file: ControlFile, images: impl FnOnce() -> Vec<ImageLine>) -> String {
        match file {
            ControlFile::Table | ControlFile::Status => self.lines(file == ControlFile::Table),
            ControlFile::Events => self.events.text(),
            ControlFile::Ls => {
                let service = self.service.get().map(|service| service_lines(&service())).unwrap_or_default();
                let status = self.status();
                let name = |device| band(&status, device).map_or("", |(_, _, band)| band.name.as_str());
                service
                    + &image_lines(images().iter().map(|image| (image, name(image.device))))
                    + &device_lines(self.bands(&status).map(|(id, _, band)| (id, band)))
            }
            ControlFile::Pid => format!("{}\n", std::process::id()),
        }
    }

    fn lines(&self, table: bool) -> String {
        let mut text = String::new();
        for (id, settings, band) in self.bands(&self.status()) {
            text += &if table { table_line(band, id, settings) } else { status_line(band, id) };
            text.push('\n');
        }
        text
    }

    fn status(&self) -> Vec<Status> {
        self.engines.iter().map(|engine| (engine.id(), engine.status())).collect()
    }

    /// The ioband devices with id and settings of their disks, in the order of the configuration.
    fn bands<'a>(
        &'a self,
        status: &'a [Status],
    ) -> impl Iterator<Item = (u32, &'a Settings, &'a BandStatus)> {
        self.devices.iter().filter_map(|device| band(status, *device))
    }
}

/// An ioband device (engine, number there) with id and settings of its disk.
fn band(status: &[Status], (engine, number): (usize, usize)) -> Option<(u32, &Settings, &BandStatus)> {
    let (id, (settings, bands)) = status.get(engine)?;
    Some((*id, settings, bands.get(number)?))
}

/// The id of a disk, its settings and its ioband devices.
type Status = (u32, (Settings, Vec<BandStatus>));
