//! The comparison as a picture (SVG): for each cell which part of the device's own requests each way did. A thin line on
//! a bar goes from the worst round to the best, a thick one across it is the mark that ioband should reach.

use crate::cells::Cell;
use crate::results::Results;
use crate::ways::Way;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const SIZE: (u32, u32) = (1400, 620);
const LEGEND_WIDTH: i32 = 240;
const FONT: &str = "sans-serif";
const SMALL: i32 = 18;
const GREY: RGBColor = RGBColor(90, 90, 90);
const GRID: RGBColor = RGBColor(215, 215, 215);
/// Of the width of a cell, what is left between it and the next one.
const GAP: f64 = 0.2;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Told apart by people with any sort of colour vision (Okabe and Ito's). The same transport has the same hue.
fn colour(way: Way) -> RGBColor {
    match way {
        Way::Raw => BLACK,
        Way::Uring => RGBColor(0, 114, 178),
        Way::UringNoScheduling => RGBColor(86, 180, 233),
        Way::Dev => RGBColor(213, 94, 0),
        Way::DevNoScheduling => RGBColor(230, 159, 0),
        Way::QemuStorageDaemon => RGBColor(0, 158, 115),
        Way::Passthrough => RGBColor(204, 121, 167),
    }
}

pub(crate) fn svg(results: &Results, cells: &[&Cell], ways: &[Way]) -> anyhow::Result<String> {
    let measured = |way: &Way| cells.iter().any(|cell| results.ratio(cell, *way, Way::Raw).is_some());
    let ways: Vec<_> = ways.iter().copied().filter(|way| *way != Way::Raw).filter(measured).collect();
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        write(
            &root,
            "Requests a second, as a part of what the device itself does",
            (20, 18),
            28,
            HPos::Left,
        )?;
        let (_, rest) = root.split_vertically(60);
        let (bars, names) = rest.split_horizontally(SIZE.0 as i32 - LEGEND_WIDTH);
        draw_bars(&root, &bars, results, cells, &ways)?;
        for (y, way) in (30..).step_by(30).zip(&ways) {
            names.draw(&Rectangle::new([(4, y - 8), (26, y + 8)], colour(*way).filled()))?;
            write(&names, way.name(), (34, y - 9), SMALL, HPos::Left)?;
        }
        let y = 30 + 30 * ways.len() as i32;
        names.draw(&PathElement::new(vec![(4, y), (26, y)], BLACK.stroke_width(3)))?;
        write(&names, "mark for ioband", (34, y - 9), SMALL, HPos::Left)?;
        root.present()?;
    }
    Ok(text)
}

fn draw_bars(
    root: &Area<'_>,
    area: &Area<'_>,
    results: &Results,
    cells: &[&Cell],
    ways: &[Way],
) -> anyhow::Result<()> {
    let ratios =
        cells.iter().flat_map(|cell| ways.iter().filter_map(|way| results.ratio(cell, *way, Way::Raw)));
    let most = ratios.map(|ratio| ratio.most).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin_left(16)
        .margin_right(12)
        .margin_bottom(56)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..cells.len() as f64, 0.0..most * 1.04)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .axis_style(GREY)
        .y_labels(11)
        .y_label_formatter(&|value| format!("{value:.1}"))
        .y_label_style((FONT, SMALL))
        .draw()?;
    let width = (1.0 - GAP) / ways.len().max(1) as f64;
    for (number, cell) in cells.iter().enumerate() {
        for (place, way) in ways.iter().enumerate() {
            let Some(ratio) = results.ratio(cell, *way, Way::Raw) else { continue };
            let left = number as f64 + GAP / 2.0 + width * place as f64;
            let (middle, right) = (left + width / 2.0, left + width);
            let bar = [(left + width * 0.06, 0.0), (right - width * 0.06, ratio.median)];
            chart.draw_series([Rectangle::new(bar, colour(*way).filled())])?;
            let ends = vec![(middle, ratio.least), (middle, ratio.most)];
            chart.draw_series([PathElement::new(ends, GREY.stroke_width(1))])?;
            let mark = match way {
                Way::Uring => cell.marks.uring,
                Way::Dev => cell.marks.dev,
                _ => continue,
            };
            chart
                .draw_series([PathElement::new(vec![(left, mark), (right, mark)], BLACK.stroke_width(3))])?;
        }
        // Below the axis, where a chart draws nothing of several lines: size and direction, and how many.
        let (x, y) = chart.backend_coord(&(number as f64 + 0.5, 0.0));
        let many = cell.title.match_indices(' ').nth(2).map_or(cell.title.len(), |(at, _)| at);
        let (what, many) = cell.title.split_at(many);
        write(root, what, (x, y + 10), SMALL, HPos::Center)?;
        write(root, many.trim_start(), (x, y + 32), SMALL, HPos::Center)?;
    }
    Ok(())
}

fn write(area: &Area<'_>, text: &str, at: (i32, i32), size: i32, across: HPos) -> anyhow::Result<()> {
    let style = (FONT, size).into_font().color(&BLACK).pos(Pos::new(across, VPos::Top));
    area.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}
