//! The file `metrics`: Prometheus text, for node_exporter's textfile collector or a scrape by hand.
//!
//! Every metric is defined here, with its name, its unit (the end of its name) and what it means. The names stay; new ones
//! may come. The format is the classic one, which every reader knows: OpenMetrics' type `info` makes node_exporter refuse
//! the file, and its counters have names that the classic one takes for untyped.

use super::ls::Service;
use super::snapshot::{Part, Seen, Snapshot};
use crate::engine::{DiskStatus, GroupStatus};
use crate::units::SECTOR_SIZE;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text::encode_registry};
use prometheus_client::metrics::MetricType::{self, Counter, Gauge};
use prometheus_client::registry::Registry;

/// Before every name.
const PREFIX: &str = "ioband";

/// One metric of a kind of thing.
struct Definition<T> {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    value: fn(&T) -> Option<Value>,
}

/// A group of an ioband device, and its parts of the disk.
struct Group {
    status: GroupStatus,
    asked: Part,
    got: Part,
}

const fn define<T>(
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    value: fn(&T) -> Option<Value>,
) -> Definition<T> {
    Definition { name, kind, help, value }
}

/// Labels: device, disk (its id), group (-1 is the default group, as in a status).
const OF_GROUPS: &[Definition<Group>] = &[
    define("group_reads_total", Counter, "Read requests passed to the device", |g| {
        count(g.status.counters.read.requests)
    }),
    define("group_delayed_reads_total", Counter, "Read requests that were held at least once", |g| {
        count(g.status.counters.read.delayed)
    }),
    define("group_read_bytes_total", Counter, "Bytes read, in whole sectors", |g| {
        count(g.status.counters.read.sectors.saturating_mul(SECTOR_SIZE))
    }),
    define("group_writes_total", Counter, "Write, discard and flush requests passed to the device", |g| {
        count(g.status.counters.write.requests)
    }),
    define(
        "group_delayed_writes_total",
        Counter,
        "Write, discard and flush requests that were held at least once",
        |g| count(g.status.counters.write.delayed),
    ),
    define("group_written_bytes_total", Counter, "Bytes written or discarded, in whole sectors", |g| {
        count(g.status.counters.write.sectors.saturating_mul(SECTOR_SIZE))
    }),
    define("group_queued_requests", Gauge, "Requests held now", |g| count(g.status.queued as u64)),
    define("group_weight", Gauge, "Weight", |g| count(g.status.weight.get().into())),
    define("group_asked_ratio", Gauge, "Part of the disk by weight, over all groups of the disk", |g| {
        g.asked.ratio().map(Value::Ratio)
    }),
    define("group_got_ratio", Gauge, "Part of what the disk did since the start or the last reset", |g| {
        g.got.ratio().map(Value::Ratio)
    }),
    define("group_gone", Gauge, "1 if the process of a group of type pid has ended", |g| {
        count(g.status.gone.into())
    }),
];

/// Label: disk (its id).
const OF_DISKS: &[Definition<DiskStatus>] = &[
    define("disk_in_flight_requests", Gauge, "Requests with the device now", |d| count(d.in_flight.into())),
    define("disk_queued_requests", Gauge, "Requests held now, over all groups", |d| count(d.queued as u64)),
    define("disk_depth_requests", Gauge, "Requests that the device is given at once", |d| {
        count(d.depth.into())
    }),
    define("disk_epochs_total", Counter, "Epochs begun: refills of tokens", |d| count(d.epochs)),
];

/// Label: transport.
const OF_TRANSPORTS: &[Definition<(&str, u64)>] =
    &[define("requests_total", Counter, "Requests for bytes of images, by the way they came", |(_, by)| {
        count(*by)
    })];

/// Label: version.
const OF_BUILDS: &[Definition<&str>] =
    &[define("build_info", Gauge, "1; the labels tell the program", |_| count(1))];

/// A number as it is printed.
#[derive(Clone, Copy, Debug)]
enum Value {
    Count(u64),
    Ratio(f64),
}

// All definitions give an `Option`.
#[allow(clippy::unnecessary_wraps)]
fn count(count: u64) -> Option<Value> {
    Some(Value::Count(count))
}

type Labels = Vec<(&'static str, String)>;

/// A metric with all of its values.
#[derive(Debug)]
struct Family {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    values: Vec<(Labels, Value)>,
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Families {
    /// Adds what is defined for things of a kind.
    fn add<T>(&mut self, definitions: &[Definition<T>], things: &[(Labels, T)]) {
        for Definition { name, kind, help, value } in definitions {
            let value = |(labels, thing): &(Labels, T)| Some((labels.clone(), value(thing)?));
            let values = things.iter().filter_map(value).collect();
            self.0.push(Family { name, kind: *kind, help, values });
        }
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        for Family { name, kind, help, values } in self.0.iter().filter(|family| !family.values.is_empty()) {
            let mut metric = encoder.encode_descriptor(name, help, None, *kind)?;
            for (labels, value) in values {
                let mut metric = metric.encode_family(labels)?;
                // A counter encoded as one would get a second `_total`.
                match value {
                    Value::Count(count) => metric.encode_gauge(count)?,
                    Value::Ratio(ratio) => metric.encode_gauge(ratio)?,
                }
            }
        }
        Ok(())
    }
}

fn disk_label(disk: &DiskStatus) -> (&'static str, String) {
    ("disk", disk.id.to_string())
}

fn disk(status: &DiskStatus) -> (Labels, DiskStatus) {
    let DiskStatus { id, settings, in_flight, queued, depth, epochs, .. } = *status;
    // Its devices have metrics of their own.
    let alone = DiskStatus { id, settings, in_flight, queued, depth, epochs, bands: Vec::new() };
    (vec![disk_label(status)], alone)
}

fn group(seen: &Seen<'_>, status: &GroupStatus) -> (Labels, Group) {
    let id = status.id.as_ref().map_or_else(|| "-1".to_owned(), ToString::to_string);
    let labels = vec![("device", seen.plan.name.clone()), disk_label(seen.disk), ("group", id)];
    (labels, Group { status: status.clone(), asked: seen.asked(status), got: seen.got(status) })
}

/// The text of the file.
pub(super) fn metrics(snapshot: &Snapshot<'_>) -> String {
    let mut families = Families(Vec::new());
    families.add(OF_BUILDS, &[(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], "")]);
    if let Some(Service { by_uring, by_dev, .. }) = snapshot.service {
        let transport = |name: &'static str, by: u64| (vec![("transport", name.to_owned())], (name, by));
        families.add(OF_TRANSPORTS, &[transport("uring", *by_uring), transport("dev", *by_dev)]);
    }
    families.add(OF_DISKS, &snapshot.disks.iter().map(disk).collect::<Vec<_>>());
    let devices = snapshot.devices();
    let groups = devices.iter().flat_map(|seen| seen.band.groups.iter().map(|status| group(seen, status)));
    families.add(OF_GROUPS, &groups.collect::<Vec<_>>());

    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(families));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode_registry(&mut text, &registry);
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::{EXAMPLE, Stage};
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_number_is_there() {
        let mut stage = Stage::new(EXAMPLE);
        stage.did("ioband1", 1, [20, 3, 160], [5, 1, 8]);
        stage.did("ioband2", 0, [75, 0, 75], [0, 0, 0]);
        stage.group("ioband1", 1).queued = 4;
        stage.group("ioband1", 2).gone = true;
        let text = metrics(&stage.look());
        let group = r#"{device="ioband1",disk="1",group="1000"}"#;
        for line in [
            concat!(r#"ioband_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
            r#"ioband_requests_total{transport="uring"} 0"#,
            r#"ioband_requests_total{transport="dev"} 7"#,
            r#"ioband_disk_in_flight_requests{disk="1"} 3"#,
            r#"ioband_disk_queued_requests{disk="1"} 5"#,
            r#"ioband_disk_depth_requests{disk="2"} 32"#,
            r#"ioband_disk_epochs_total{disk="2"} 9"#,
            &format!("ioband_group_reads_total{group} 20"),
            &format!("ioband_group_delayed_reads_total{group} 3"),
            &format!("ioband_group_read_bytes_total{group} 81920"),
            &format!("ioband_group_writes_total{group} 5"),
            &format!("ioband_group_delayed_writes_total{group} 1"),
            &format!("ioband_group_written_bytes_total{group} 4096"),
            &format!("ioband_group_queued_requests{group} 4"),
            &format!("ioband_group_weight{group} 30"),
            &format!("ioband_group_asked_ratio{group} 0.3"),
            &format!("ioband_group_got_ratio{group} 0.25"),
            &format!("ioband_group_gone{group} 0"),
            r#"ioband_group_gone{device="ioband1",disk="1",group="2000"} 1"#,
            r#"ioband_group_weight{device="ioband2",disk="1",group="-1"} 10"#,
            "# TYPE ioband_group_reads_total counter",
            "# TYPE ioband_group_weight gauge",
            "# HELP ioband_group_queued_requests Requests held now",
        ] {
            assert!(text.lines().any(|is| is == line), "no {line} in\n{text}");
        }
        // Nothing was done on that disk: that is no share of 0.
        assert!(!text.contains(r#"got_ratio{device="other""#));
    }

    /// The rules of the classic format that a reader refuses a whole file for.
    #[test]
    fn the_text_is_well_formed() {
        let yaml = "devices: {d: {path: /d, size: 1MiB, type: cgroup, groups: {'/a\"b\\c': 1, /ü: 2}}}";
        let mut stage = Stage::new(yaml);
        stage.did("d", 0, [1, 0, 1], [0, 0, 0]);
        let text = metrics(&stage.look());
        let (mut series, mut current, mut types) = (HashSet::new(), String::new(), HashSet::new());
        for line in text.lines() {
            if let Some(of) = line.strip_prefix("# TYPE ") {
                let (name, kind) = of.split_once(' ').unwrap();
                assert!(["counter", "gauge"].contains(&kind), "{line}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                assert!(types.insert(name.to_owned()), "{line} twice");
                current = name.to_owned();
            } else if !line.starts_with("# HELP ") {
                let (of, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
                assert_eq!(of.split_once('{').unwrap().0, current, "{line}");
                assert!(series.insert(of.to_owned()), "{line} twice");
            }
        }
        assert!(text.contains(r#"group="/a\"b\\c"} 1"#), "{text}");
        assert!(text.contains(r#"group="/ü"} 2"#), "{text}");
        let all = [OF_GROUPS.len(), OF_DISKS.len(), OF_TRANSPORTS.len(), OF_BUILDS.len()];
        assert_eq!(types.len(), all.into_iter().sum::<usize>());
    }

    #[test]
    fn an_empty_mount_has_metrics_too() {
        let mut stage = Stage::new("");
        stage.images.clear();
        let text = metrics(&stage.look());
        assert!(text.contains("ioband_build_info") && !text.contains("ioband_group"), "{text}");
    }
}
