//! Medians over windows, and the table.

use crate::load::{Seen, Shape};
use std::collections::BTreeMap;

/// One row: what ran, in which shape.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) subject: String,
    pub(crate) connections: usize,
    pub(crate) streams: usize,
}

impl Row {
    pub(crate) fn new(subject: impl Into<String>, shape: Shape) -> Self {
        Self { subject: subject.into(), connections: shape.connections, streams: shape.streams }
    }
}

impl Row {
    pub(crate) fn is(&self, shape: Shape) -> bool {
        (self.connections, self.streams) == (shape.connections, shape.streams)
    }
}

/// What one window measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Calls (or keys) a second.
    pub(crate) rate: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    /// CPU microseconds a call: server, boundary.
    pub(crate) server_us: f64,
    pub(crate) boundary_us: f64,
    /// Of the disk, a second; where the server tells them.
    pub(crate) syncs: Option<f64>,
}

impl Figures {
    /// `items` is what one call counts as.
    pub(crate) fn of(seen: &Seen, items: u32, cpu: (f64, f64), syncs: Option<u64>) -> Self {
        let count = seen.calls as f64 * f64::from(items);
        let each = |seconds: f64| if seen.calls == 0 { 0.0 } else { seconds * 1e6 / count };
        Self {
            rate: seen.rate() * f64::from(items),
            p50_us: seen.quantile(0.5),
            p99_us: seen.quantile(0.99),
            server_us: each(cpu.0),
            boundary_us: each(cpu.1),
            syncs: syncs.map(|syncs| syncs as f64 / seen.elapsed.as_secs_f64()),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: BTreeMap<Row, Vec<Figures>>,
    order: Vec<Row>,
}

impl Report {
    pub(crate) fn add(&mut self, row: Row, figures: Figures) {
        if !self.rows.contains_key(&row) {
            self.order.push(row.clone());
        }
        self.rows.entry(row).or_default().push(figures);
    }

    pub(crate) fn median(&self, row: &Row) -> Option<Figures> {
        let all = self.rows.get(row)?;
        let of = |value: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = all.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let micros = |value: fn(&Figures) -> u64| {
            let mut values: Vec<u64> = all.iter().map(value).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        Some(Figures {
            rate: of(|f| f.rate),
            p50_us: micros(|f| f.p50_us),
            p99_us: micros(|f| f.p99_us),
            server_us: of(|f| f.server_us),
            boundary_us: of(|f| f.boundary_us),
            syncs: all.iter().all(|f| f.syncs.is_some()).then(|| of(|f| f.syncs.unwrap_or_default())),
        })
    }

    /// The table, each row beside the bare empty RPC of its shape.
    pub(crate) fn table(&self, bare: &str) -> String {
        let mut out = String::from(
            "| what | shape | /s | p50 µs | p99 µs | server CPU µs | boundary CPU µs | syncs/s | ÷ empty RPC |\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for row in &self.order {
            let Some(f) = self.median(row) else { continue };
            let shape = Shape { connections: row.connections, streams: row.streams };
            let ratio = self
                .median(&Row::new(bare, shape))
                .map_or("–".to_owned(), |bare| format!("{:.2}", f.rate / bare.rate));
            let syncs = f.syncs.map_or("–".to_owned(), |syncs| format!("{syncs:.0}"));
            out += &format!(
                "| {} | {shape} | {:.0} | {} | {} | {:.1} | {:.1} | {syncs} | {ratio} |\n",
                row.subject, f.rate, f.p50_us, f.p99_us, f.server_us, f.boundary_us
            );
        }
        out
    }
}
