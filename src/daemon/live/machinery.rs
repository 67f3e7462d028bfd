//! What a mount does for those who control it.

use super::{Held, Live};
use crate::config::{Defaults, Plan, Probe};
use crate::control::{Asked, Carried, ImageLine, Machinery, Processes, Refusal, Service};
use crate::daemon::replace::{is_replaced, replace_file};
use crate::engine::DiskStatus;
use std::path::Path;
use std::time::Duration;

/// How long whoever asks for a device to be opened again waits for it.
const REOPENING: Duration = Duration::from_secs(5);

impl Machinery for Live {
    fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    fn probe(&self) -> &dyn Probe {
        self
    }

    fn apply(&self, old: &Plan, new: &Plan) -> Result<(), Refusal> {
        self.make(old, new).map(drop)
    }

    fn reset(&self, device: &str) {
        if let Some(held) = self.devices().get(device) {
            held.engine.change().reset(held.band);
        }
        self.counted.write();
    }

    fn reopen(&self, device: &str) -> Result<(), Refusal> {
        // Without the lock: opening may take its time.
        let held = self.devices().get(device).cloned();
        let gone = || Refusal::new(libc::ENXIO, format!("there is no ioband device {device}"));
        let Held { target, errand, path, .. } = held.ok_or_else(gone)?;
        // Somebody may be looking at it just now.
        errand.wait(REOPENING);
        match errand.within(REOPENING, move || target.reopen()) {
            Some(opened) => {
                opened.map_err(|error| Refusal::new(error.errno(), format!("device {device}: {error}")))
            }
            None => Err(Refusal::new(
                libc::ETIMEDOUT,
                format!("device {device}: {} does not answer; try again when it does", path.display()),
            )),
        }
    }

    fn write_down(&self, carried: &mut Carried) {
        self.face.write_down(carried);
        carried.devices = self.devices().values().map(Held::entry).collect();
        carried.devices.sort_by(|one, other| one.path.cmp(&other.path));
    }

    fn disks(&self) -> Vec<DiskStatus> {
        let engines = self.engines.load_full();
        let disks =
            engines.iter().map(|engine| engine.status()).filter(|disk| !disk.bands.is_empty()).collect();
        // What somebody has seen is not to go back, should this process die now.
        self.counted.write();
        disks
    }

    fn images(&self) -> Vec<ImageLine> {
        self.face.tree().images().iter().map(|node| node.line()).collect()
    }

    fn service(&self) -> Option<Service> {
        let server = self.server.get()?;
        let processes = Processes {
            keeper: self.keeper(),
            worker: std::process::id(),
            before: self.began.get().map_or(0, |(_, before)| *before),
            survives: self.keeper.get().is_some() && server.survives(),
        };
        Some(Service { processes, sandbox: self.sandbox.clone(), ..server.service() })
    }

    fn keeper(&self) -> Option<u32> {
        match self.keeper.get() {
            Some(keeper) => keeper.process(),
            None => self.began.get().map(|(keeper, _)| *keeper),
        }
    }

    fn upgrade(&self, program: &Path, asked: Asked) -> Result<(), Refusal> {
        if let Some(tried) =
            self.upgraded.as_ref().filter(|tried| asked.again && tried.unique == asked.unique)
        {
            return tried.failed.as_ref().map_or(Ok(()), |why| Err(Refusal::new(libc::ENOEXEC, why.clone())));
        }
        let Some(keeper) = self.keeper.get() else {
            return Err(Refusal::new(libc::EAGAIN, "the mount is still being made; try again"));
        };
        let server = self.server.get();
        let leaves = server.map_or(Ok(()), |server| server.prepare_to_leave());
        leaves.map_err(|why| Refusal::new(libc::EOPNOTSUPP, why))?;
        match keeper.upgrade(program, asked.unique) {
            Ok(never) => match never {},
            Err(why) => {
                if let Some(server) = server {
                    server.stay();
                }
                Err(Refusal::new(libc::ENOEXEC, why))
            }
        }
    }

    fn save(&self, text: &str) -> Result<String, Refusal> {
        let name = self.file.display().to_string();
        if self.is_inside(&self.file) {
            return Err(Refusal::invalid(format!("{name} is in this very mount; save to a file elsewhere")));
        }
        if !is_replaced(&self.file) {
            // Nobody may ever read from a pipe, and other changes wait for this one.
            return Err(Refusal::invalid(format!(
                "{name} is no regular file; `ioband save FILE` saves to another one"
            )));
        }
        replace_file(&self.file, text.as_bytes()).map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            Refusal::new(errno, format!("{name} cannot be written: {error}"))
        })?;
        Ok(name)
    }
}
