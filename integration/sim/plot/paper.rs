//! Panels, curves, legends and words.

use super::trace::Values;
use crate::sim::scenario::Scenario;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

const FONT: &str = "sans-serif";
const SMALL: i32 = 20;
pub(super) const GREY: RGBColor = RGBColor(90, 90, 90);
const GRID: RGBColor = RGBColor(215, 215, 215);
const WARM_UP: RGBColor = RGBColor(240, 240, 240);

/// A part of the picture.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Something over time.
pub(super) type Panel<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Scale, Scale>>;

/// An axis: its ends, its ticks, and whether it is logarithmic.
#[derive(Clone)]
pub(super) struct Scale {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    logarithmic: bool,
}

impl Scale {
    /// From 0 to `end`.
    fn time(end: f64) -> Self {
        let step = round_up(end / 12.0);
        let ticks = (0..=(end / step + 1e-6) as u32).map(|n| f64::from(n) * step).collect();
        Self { from: 0.0, to: end, ticks, logarithmic: false }
    }

    /// From 0 to above `most`, with about so many ticks.
    pub(super) fn from_zero(most: f64, about: u32) -> Self {
        let step = round_up(most.max(1e-6) / f64::from(about));
        let count = (most / step).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|n| f64::from(n) * step).collect();
        Self { from: 0.0, to: count * step * 1.02, ticks, logarithmic: false }
    }

    /// Around all values, with as many ticks to a power of ten as there is room for.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let ends = values.map(|value| (value, value)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        let (least, most) = ends.unwrap_or((1.0, 1.0));
        let (least, most) = (round_down(least * 0.9), round_up(most * 1.1));
        let digits: &[f64] = match most / least {
            ..11.0 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
            ..1001.0 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let decades = (least.log10().floor() as i32)..=(most.log10().ceil() as i32);
        let ticks = decades.flat_map(|decade| digits.iter().map(move |digit| digit * 10f64.powi(decade)));
        let ticks = ticks.filter(|tick| (least * 0.999..most * 1.001).contains(tick)).collect();
        Self { from: least, to: most, ticks, logarithmic: true }
    }

    fn place(&self, value: f64) -> f64 {
        if self.logarithmic { value.ln() } else { value }
    }
}

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let [value, from, to] = [*value, self.from, self.to].map(|value| self.place(value));
        first + (f64::from(last - first) * (value - from) / (to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

/// A panel over the time of the scenario; the last one, at the bottom, says so.
pub(super) fn panel<'a>(
    area: &Area<'a>,
    scenario: &Scenario,
    title: &str,
    scale: Scale,
    last: bool,
) -> anyhow::Result<Panel<'a>> {
    let mut panel = ChartBuilder::on(area)
        .margin_top(12)
        .margin_left(12)
        .margin_right(20)
        .y_label_area_size(84)
        .x_label_area_size(if last { 56 } else { 8 })
        .build_cartesian_2d(Scale::time(scenario.seconds), scale.clone())?;
    if scenario.warm_up > 0.0 {
        let corners = [(0.0, scale.from), (scenario.warm_up, scale.to)];
        panel.draw_series([Rectangle::new(corners, WARM_UP.filled())])?;
    }
    let nothing = |_: &f64| String::new();
    panel
        .configure_mesh()
        .bold_line_style(GRID)
        .axis_style(GREY)
        .y_desc(title)
        .y_label_formatter(&plain)
        .y_label_style((FONT, SMALL))
        .axis_desc_style((FONT, SMALL + 2))
        .x_label_style((FONT, SMALL))
        .x_desc(if last { "virtual time, s" } else { "" })
        .x_label_formatter(if last { &plain } else { &nothing })
        .draw()?;
    Ok(panel)
}

/// A line through the values, as far as there are any.
pub(super) fn curve(
    panel: &mut Panel<'_>,
    values: &Values,
    colour: RGBColor,
    width: u32,
) -> anyhow::Result<()> {
    for part in unbroken(values) {
        if let [alone] = part[..] {
            panel.draw_series([Circle::new(alone, 2, colour.filled())])?;
        } else {
            panel.draw_series(LineSeries::new(part, colour.stroke_width(width)))?;
        }
    }
    Ok(())
}

/// The same, dashed.
pub(super) fn dashes(panel: &mut Panel<'_>, values: &Values, colour: RGBColor) -> anyhow::Result<()> {
    for part in unbroken(values) {
        panel.draw_series(DashedLineSeries::new(part, 6, 6, colour.stroke_width(2)))?;
    }
    Ok(())
}

/// Dots on a curve, of which `of` are drawn: each has its dots elsewhere, so that none is lost below another.
pub(super) fn dots(
    panel: &mut Panel<'_>,
    values: &Values,
    colour: RGBColor,
    (index, of): (usize, usize),
) -> anyhow::Result<()> {
    let between = values.len() / 8 + 1;
    let first = between * (2 * index + 1) / (2 * of);
    for (at, value) in values.iter().skip(first).step_by(between) {
        if let Some(value) = value {
            panel.draw_series([Circle::new((*at, *value), 4, colour.filled())])?;
        }
    }
    Ok(())
}

fn unbroken(values: &Values) -> impl Iterator<Item = Vec<(f64, f64)>> {
    let parts = values.split(|(_, value)| value.is_none()).filter(|part| !part.is_empty());
    parts.map(|part| part.iter().filter_map(|(at, value)| Some((*at, (*value)?))).collect())
}

/// A line of a legend.
pub(super) struct Key<'a> {
    pub(super) name: &'a str,
    pub(super) colour: RGBColor,
    pub(super) dashed: bool,
}

/// Says what the lines of the panel to the left are.
pub(super) fn legend(area: &Area<'_>, keys: &[Key<'_>]) -> anyhow::Result<()> {
    for (y, Key { name, colour, dashed }) in (26..).step_by(28).zip(keys) {
        let ends = [(0, y), (30, y)];
        if *dashed {
            area.draw(&DashedPathElement::new(ends, 8, 6, colour.stroke_width(2)))?;
        } else {
            area.draw(&PathElement::new(ends, colour.stroke_width(4)))?;
        }
        write(area, name, (38, y - 8), SMALL, BLACK)?;
    }
    Ok(())
}

/// Words, the upper left corner of which is given.
pub(super) fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    colour: RGBColor,
) -> anyhow::Result<()> {
    let style = (FONT, size).into_font().color(&colour).pos(Pos::new(HPos::Left, VPos::Top));
    area.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}

/// Lines of so many letters.
pub(super) fn wrapped(text: &str, letters: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { continue };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= letters {
            line.extend([" ", word]);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// 1, 2 or 5 times a power of ten, at least `value`.
fn round_up(value: f64) -> f64 {
    let unit = 10f64.powf(value.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * unit >= value * 0.999).unwrap_or(10.0);
    digit * unit
}

/// The same, at most `value`.
fn round_down(value: f64) -> f64 {
    let unit = 10f64.powf(value.log10().floor());
    let digit = [5.0, 2.0].into_iter().find(|digit| digit * unit <= value * 1.001).unwrap_or(1.0);
    digit * unit
}

/// A number without the digits that are but the rounding of a binary fraction.
fn plain(value: &f64) -> String {
    format!("{}", (value * 1e6).round() / 1e6)
}
