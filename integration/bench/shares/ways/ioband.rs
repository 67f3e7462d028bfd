//! ioband itself: one mount, an image for each client, groups by user.

use super::Bench;
use super::mount::Mount;
use crate::generator::Report;
use crate::sim::Scenario;
use crate::sim::real::{Images, Real};

pub(crate) fn measure(bench: &Bench, scenario: &Scenario) -> anyhow::Result<Vec<Report>> {
    let real = Real::new(scenario, Images::Each)?;
    let mount = Mount::new(&bench.programs, &real.config, &[])?;
    let mut loads = Vec::new();
    for client in &real.clients {
        let mut load = bench.load()?;
        load.open(&mount.file(&client.image), &format!("--uid {} {}", client.uid, client.args))?;
        loads.push(load);
    }
    bench.race(&mut loads, scenario)
}
