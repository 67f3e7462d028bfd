//! A scenario in reality: the configuration of a mount that is as slow as the scenario's disk, and the command lines of
//! load generators that ask as its clients do. Each client is a user of its own.
//!
//! Only what reality can do like the model: disks with servers of a fixed pace, and closed loops. All else is refused.

use super::client::{ClientModel, Ops};
use super::device::DeviceModel;
use super::scenario::Scenario;
use anyhow::{Context, ensure};

/// The first client's user; the others follow.
const FIRST_UID: u32 = 60_001;
/// Of each image.
const IMAGE_MIB: usize = 32;
/// As many requests in flight as a configuration can let pass: everything passes at once.
const UNCONTROLLED: u32 = 65_535;

/// Who gets which image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Images {
    /// Each client one of its own.
    Each,
    /// All the same one.
    Shared,
}

/// A scenario in reality.
pub(crate) struct Real {
    /// For `ioband mount`; the device is a file `disk` in the folder where that is run.
    pub(crate) config: String,
    /// In the scenario's order.
    pub(crate) clients: Vec<RealClient>,
}

/// A client in reality.
pub(crate) struct RealClient {
    /// The user that its group stands for.
    pub(crate) uid: u32,
    /// The image that it reads or writes.
    pub(crate) image: String,
    /// The load generator's arguments, but for the file and the user.
    pub(crate) args: String,
}

impl Real {
    pub(crate) fn new(scenario: &Scenario, images: Images) -> anyhow::Result<Self> {
        ensure!(
            scenario.changes.is_empty() && scenario.random_changes == 0.0,
            "a real mount does not change while it runs"
        );
        let simulate = simulate(scenario)?;
        let settings = scenario.settings();
        let clients = (0..).zip(&scenario.clients).map(|(number, model)| {
            let image = match images {
                Images::Each => format!("{}.img", model.name),
                Images::Shared => "disk.img".to_owned(),
            };
            let args = arguments(scenario, model, number).with_context(|| model.name.clone())?;
            anyhow::Ok(RealClient { uid: FIRST_UID + number, image, args })
        });
        let clients: Vec<_> = clients.collect::<Result<_, _>>()?;
        let groups = clients.iter().zip(&scenario.clients);
        let groups: Vec<_> =
            groups.map(|(client, model)| format!("{}: {}", client.uid, model.weight)).collect();
        let config = format!(
            "devices:\n  ioband1:\n    path: disk\n    size: {}MiB\n    simulate: {{{simulate}}}\n    \
             io_throttle: {}\n    io_limit: {}\n    token_base: {}\n    type: user\n    policy: {}\n    \
             groups: {{{}}}\nimages:\n{}",
            IMAGE_MIB * clients.len(),
            settings.io_throttle.min(UNCONTROLLED),
            settings.io_limit.min(UNCONTROLLED),
            settings.token_base,
            scenario.policy.as_str(),
            groups.join(", "),
            image_lines(&clients, images),
        );
        Ok(Self { config, clients })
    }
}

/// The `images:` of a configuration.
fn image_lines(clients: &[RealClient], images: Images) -> String {
    let (count, size) = match images {
        Images::Each => (clients.len(), IMAGE_MIB),
        Images::Shared => (1, IMAGE_MIB * clients.len()),
    };
    let line = |(number, client): (usize, &RealClient)| {
        let offset = number * size;
        format!(
            "  {}: {{device: ioband1, offset: {offset}MiB, size: {size}MiB, mode: \"0666\"}}\n",
            client.image
        )
    };
    clients.iter().take(count).enumerate().map(line).collect()
}

/// How slow the device of the mount is to be.
fn simulate(scenario: &Scenario) -> anyhow::Result<String> {
    let DeviceModel::Servers { parallel, service_us, bandwidth, random: false } = scenario.device else {
        anyhow::bail!("a mount simulates only `servers` that are not `random`");
    };
    let faults = scenario.faults;
    let faultless = faults.stall_every_ms == 0.0 && faults.error_one_in == 0;
    ensure!(faultless, "a mount does not simulate `faults`");
    let iops = 1e6 / service_us;
    // So that both are equally slow: a configuration takes no fractions.
    ensure!((iops - iops.round()).abs() < 1e-6, "{service_us} us is no whole number of requests a second");
    let bandwidth = if bandwidth > 0 { format!("bandwidth: {bandwidth}, ") } else { String::new() };
    Ok(format!("iops: {iops:.0}, {bandwidth}parallel: {parallel}"))
}

fn arguments(scenario: &Scenario, model: &ClientModel, number: u32) -> anyhow::Result<String> {
    ensure!(model.depth > 0, "a load generator is a closed loop: say `depth`");
    let there = model.from == 0.0 && model.until == f64::INFINITY && model.off_ms == 0.0;
    ensure!(there, "a load generator is there all the time");
    ensure!(
        !model.random_think && model.think_us.fract() == 0.0,
        "a load generator thinks for whole microseconds"
    );
    ensure!(model.slowness == 1.0, "a mount is as slow for everybody");
    ensure!(model.limits.limits().is_empty(), "limits are not handed to a mount");
    let rw = match model.ops {
        Ops::Read => "read",
        Ops::Write => "write",
        Ops::Randrw => "randrw",
        Ops::Discard | Ops::Flush | Ops::Any => anyhow::bail!("a load generator reads and writes only"),
    };
    let sizes: Vec<_> = model.sizes.iter().map(|size| size.0.to_string()).collect();
    Ok(format!(
        "--depth {} --size {} --rw {rw} --think-us {} --seed {} --seconds {} --window-start-ms {:.0}",
        model.depth,
        sizes.join(","),
        model.think_us,
        scenario.seed.wrapping_add(number.into()),
        scenario.seconds,
        scenario.warm_up * 1e3,
    ))
}
