//! ioband itself: one image that is the whole device, groups by user. The load is root's and so the default group's, or
//! that of two users of the same weight.

use super::{Bench, Keeper, Served};
use crate::mount::Mount;
use anyhow::Context;

pub(super) fn serve(bench: &Bench, options: &[&str]) -> anyhow::Result<Served> {
    let (device, groups) = (bench.disk.path().display(), bench.groups);
    let config = format!(
        "devices:
  fast: {{path: {device}, type: user, policy: weight, groups: {groups}}}
images:
  disk.img: {{device: fast, mode: \"0666\"}}
"
    );
    let mount = Mount::new(&bench.programs, &config, options)?;
    let file = mount.file(".ioband/ls.json");
    let list = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    let worker = list["service"]["worker"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let pid = worker.with_context(|| format!("{} tells of no worker", file.display()))?;
    Ok(Served { file: mount.file("disk.img"), pid: Some(pid), _keeper: Keeper::Ioband { _mount: mount } })
}
