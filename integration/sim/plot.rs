//! A run as a picture (SVG) for people.
//!
//! From top to bottom, over virtual time: which part of all requests (of all bytes, where bytes are charged) each client
//! got, beside the part that the weights ask for; how long its requests took, at the 99th percentile; how many requests
//! were in flight, and how many might have been. The grey beginning is the warm-up, which the table leaves out. Dots are
//! there to find a curve by that lies below another.
//!
//! The same scenario gives the same picture, byte for byte.

mod paper;
mod trace;

use super::scenario::Scenario;
use paper::{Area, GREY, Key, Scale, curve, dashes, dots, legend, panel, wrapped, write};
use plotters::prelude::*;
use trace::{Trace, by_bytes};

const SIZE: (u32, u32) = (1200, 1000);
const LEGEND_WIDTH: i32 = 265;
/// Told apart by people with any sort of colour vision (but for the last one, Okabe and Ito's).
const COLOURS: [RGBColor; trace::DRAWN_ALONE] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(110, 20, 70),
];
const OTHERS: RGBColor = RGBColor(130, 130, 130);

/// Runs the scenario, and draws it.
pub(crate) fn svg(scenario: &Scenario) -> anyhow::Result<String> {
    let trace = Trace::of(scenario);
    let mut text = String::new();
    draw(scenario, &trace, &SVGBackend::with_string(&mut text, SIZE).into_drawing_area())?;
    Ok(text)
}

fn draw(scenario: &Scenario, trace: &Trace, root: &Area<'_>) -> anyhow::Result<()> {
    root.fill(&WHITE)?;
    let mut below = 18;
    for text in wrapped(&scenario.about, 90) {
        write(root, &text, (20, below), 30, BLACK)?;
        below += 32;
    }
    write(root, &subtitle(scenario, trace), (20, below + 4), 21, GREY)?;
    let (_, rest) = root.split_vertically(below + 38);
    let (panels, legends) = rest.split_horizontally(SIZE.0 as i32 - LEGEND_WIDTH);
    let height = SIZE.1 as i32 - (below + 38);
    let cuts = [height * 40 / 100, height * 72 / 100];
    let [panels, legends] = [panels, legends].map(|area| area.split_by_breakpoints([0; 0], cuts));
    draw_shares(scenario, trace, &panels[0], &legends[0])?;
    draw_latencies(scenario, trace, &panels[1])?;
    draw_depth(scenario, trace, &panels[2], &legends[2])?;
    root.present()?;
    Ok(())
}

/// What the picture must be read with.
fn subtitle(scenario: &Scenario, trace: &Trace) -> String {
    let depth = match (scenario.control, scenario.io_limit) {
        (false, _) => "without control".to_owned(),
        (true, 0) => "automatic depth".to_owned(),
        (true, limit) => format!("io_limit {limit}"),
    };
    let (policy, seed) = (scenario.policy.as_str(), scenario.seed);
    // Steps have one digit that counts; multiplying by 1000 may add others.
    let step = (trace.step * 1e9).round() / 1e6;
    let changes = if scenario.random_changes > 0.0 { ", changed at random" } else { "" };
    format!("policy {policy}, {depth}{changes}, seed {seed}; one point for every {step} ms")
}

fn colour(line: usize) -> RGBColor {
    *COLOURS.get(line).unwrap_or(&OTHERS)
}

fn darker(RGBColor(red, green, blue): RGBColor) -> RGBColor {
    RGBColor(red / 5 * 3, green / 5 * 3, blue / 5 * 3)
}

fn draw_shares(scenario: &Scenario, trace: &Trace, area: &Area<'_>, beside: &Area<'_>) -> anyhow::Result<()> {
    let shares = trace.lines.iter().flat_map(|line| line.got.iter().chain(&line.asked));
    let most = shares.filter_map(|(_, share)| *share).fold(0.0, f64::max);
    let title = if by_bytes(scenario) { "share of bytes, %" } else { "share of requests, %" };
    let mut panel = panel(area, scenario, title, Scale::from_zero(most, 5), false)?;
    for (index, line) in trace.lines.iter().enumerate() {
        curve(&mut panel, &line.got, colour(index), 3)?;
    }
    // Above, and darker: mostly the one is just where the other is.
    for (index, line) in trace.lines.iter().enumerate() {
        dashes(&mut panel, &line.asked, darker(colour(index)))?;
        dots(&mut panel, &line.got, colour(index), (index, trace.lines.len()))?;
    }
    let mut keys: Vec<Key<'_>> = Vec::new();
    for (index, line) in trace.lines.iter().enumerate() {
        keys.push(Key { name: &line.name, colour: colour(index), dashed: false });
    }
    if trace.lines.iter().any(|line| line.asked.iter().any(|(_, share)| share.is_some())) {
        keys.push(Key { name: "as weights ask", colour: darker(OTHERS), dashed: true });
    }
    legend(beside, &keys)
}

fn draw_latencies(scenario: &Scenario, trace: &Trace, area: &Area<'_>) -> anyhow::Result<()> {
    let all = trace.lines.iter().flat_map(|line| &line.p99).filter_map(|(_, latency)| *latency);
    let mut panel = panel(area, scenario, "latency (p99), ms", Scale::logarithmic(all), false)?;
    for (index, line) in trace.lines.iter().enumerate() {
        curve(&mut panel, &line.p99, colour(index), 2)?;
    }
    for (index, line) in trace.lines.iter().enumerate() {
        dots(&mut panel, &line.p99, colour(index), (index, trace.lines.len()))?;
    }
    Ok(())
}

fn draw_depth(scenario: &Scenario, trace: &Trace, area: &Area<'_>, beside: &Area<'_>) -> anyhow::Result<()> {
    let most = trace.in_flight.iter().filter_map(|(_, count)| *count).fold(1.0, f64::max);
    // A limit that nobody comes near would only press the rest to the bottom.
    let near = |limit: &f64| *limit <= most.max(16.0) * 8.0;
    let allowed: Vec<_> = trace.allowed.iter().map(|(at, limit)| (*at, limit.filter(near))).collect();
    let most = allowed.iter().filter_map(|(_, limit)| *limit).fold(most, f64::max);
    let mut panel = panel(area, scenario, "requests in flight", Scale::from_zero(most.max(4.0), 4), true)?;
    curve(&mut panel, &allowed, OTHERS, 2)?;
    curve(&mut panel, &trace.in_flight, BLACK, 2)?;
    let mut keys = vec![Key { name: "in flight, on average", colour: BLACK, dashed: false }];
    if allowed.iter().any(|(_, limit)| limit.is_some()) {
        let name = if scenario.io_limit > 0 { "io_limit" } else { "depth in force" };
        keys.push(Key { name, colour: OTHERS, dashed: false });
    }
    legend(beside, &keys)
}
