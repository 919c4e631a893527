//! The run: every kind of window once a round, round after round, so that what the machine does to one it does to all.

use crate::load::{Load, Shape};
use crate::report::{Figures, Report, Row};
use crate::rig::{self, Server};
use crate::stand::{self, Stand};
use crate::{Arguments, empty, load, raw, sink, softhsm, verdict};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Names of the rows that others are compared with.
pub(crate) const BARE: &str = "empty RPC, bare tonic + TLS";
pub(crate) const OWN: &str = "empty RPC, our listener";
pub(crate) const RAW: &str = "raw group commit";
pub(crate) const SINK: &str = "audit log alone";
pub(crate) const SIM: &str = "hsm-sim";
pub(crate) const SOFTHSM: &str = "SoftHSM2";
pub(crate) const PLAIN: &str = "hsm-sim, log without its tree";
pub(crate) const DATA_KEY: &str = "GenerateDataKey";
/// Beside each other, in turns: with the log's tree, and without it.
pub(crate) const TREE_ROW: &str = "GenerateDataKey in turns";
pub(crate) const FOR_RECEIPT: &str = "GenerateDataKey with a receipt";
pub(crate) const BATCH: u32 = 32;

pub(crate) const ONE: Shape = Shape { connections: 1, streams: 1 };
pub(crate) const WIDE: Shape = Shape { connections: 64, streams: 1 };
/// Callers of the log alone, and of the raw commit, without connections.
pub(crate) const CROWD: Shape = Shape { connections: 512, streams: 1 };
pub(crate) const MULTIPLEXED: Shape = Shape { connections: 4, streams: 16 };
const SHAPES: [Shape; 5] =
    [ONE, Shape { connections: 8, streams: 1 }, WIDE, Shape { connections: 256, streams: 1 }, MULTIPLEXED];
/// Where [`WIDE`] stands in it.
const WIDE_LOAD: usize = 2;
const BATCH_SHAPES: [Shape; 3] = [ONE, WIDE, MULTIPLEXED];

/// One kind of window.
struct Kind {
    row: Row,
    work: Work,
}

enum Work {
    /// On the disk alone.
    Raw,
    /// The audit log, and nothing in front of it.
    Sink,
    /// A call on a stand's connections of a shape; it counts as `items`.
    Call { stand: usize, load: usize, call: load::Call, items: u32 },
}

/// A server and its connections, one set a shape.
struct Driven {
    server: Server,
    loads: Vec<Load>,
    counts_syncs: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let folder = fresh(&arguments.folder)?;
    let (rounds, length) = match arguments.smoke {
        true => (1, SMOKE_WINDOW),
        false => (arguments.windows, Duration::from_millis(arguments.window_ms)),
    };
    say(&format!("machine: {}; load average {}; commit {}", machine(), rig::load_average(), commit()));
    let (driven, mut kinds, tls) = prepare(arguments, &folder)?;
    if let Some(only) = &arguments.only {
        kinds.retain(|kind| kind.row.subject == BARE || kind.row.subject.contains(only));
    }
    say(&format!("{} kinds of windows, {rounds} of each, {} ms each", kinds.len(), length.as_millis()));
    let mut report = Report::default();
    if !arguments.smoke {
        for kind in &kinds {
            measure(kind, &driven, &folder, &tls, WARM_UP)?;
        }
    }
    for round in 0..rounds {
        // each round starts elsewhere, so that no kind always follows the same other one
        let first = round * kinds.len() / rounds;
        for kind in kinds.iter().cycle().skip(first).take(kinds.len()) {
            report.add(kind.row.clone(), measure(kind, &driven, &folder, &tls, length)?);
        }
    }
    print(&report, &driven, &kinds)?;
    is_without_tree(&driven, &kinds, &tls)?;
    verdict::sink(&report).iter().for_each(|line| say(line));
    if let Some((entries, rate)) = sink::verified(&folder)? {
        say(&format!("  verify: {rate:.0} entries a second on one core, of {entries}; at least 500000"));
    }
    say(&format!("load average at the end {}", rig::load_average()));
    if arguments.smoke {
        say("a smoke run: that it runs is shown, the figures mean nothing");
    }
    Ok(())
}

type Prepared = (Vec<Driven>, Vec<Kind>, Arc<rustls::ClientConfig>);

fn prepare(arguments: &Arguments, folder: &Path) -> Result<Prepared> {
    let ca = stand::make_ca(&folder.join("tls"))?;
    let mut trusted = vec![ca];
    let this = std::env::current_exe()?;
    let mut started = Vec::new();
    if !arguments.tree {
        for name in ["bare", "own"] {
            let server = Server::start(Command::new(&this).arg(name).arg("127.0.0.1:0").arg(folder.join("tls")))?;
            started.push((server, None));
        }
    }
    let mut boundaries = vec![(SIM, None), (PLAIN, None)];
    boundaries.truncate(if arguments.vault { 1 } else { 2 });
    match (arguments.softhsm && !arguments.tree && !arguments.vault, softhsm::module()) {
        (true, Some(module)) => boundaries.push((SOFTHSM, Some(softhsm::token(&folder.join("token"), &module)?))),
        (true, None) => say("SKIPPED: SoftHSM2 is not installed (`apt-get install softhsm2`), its rows are missing"),
        (false, _) => say("SKIPPED: SoftHSM2, as asked for"),
    }
    for (name, token) in boundaries {
        let data = folder.join(name);
        let server = stand::start(&data, token.as_ref())?;
        trusted.push(data.join("tls/ca.pem"));
        if name == PLAIN {
            stand::stop_tree(&data)?;
        }
        started.push((server, Some((name, data))));
    }
    let tls = Arc::new(rig::client_tls(&trusted)?);
    let (mut driven, mut kinds) = (Vec::new(), Vec::new());
    for shape in [WIDE, CROWD].into_iter().filter(|_| !arguments.tree && !arguments.vault) {
        kinds.push(Kind { row: Row::new(RAW, shape), work: Work::Raw });
        kinds.push(Kind { row: Row::new(SINK, shape), work: Work::Sink });
    }
    if arguments.vault {
        kinds.push(Kind { row: Row::new(RAW, WIDE), work: Work::Raw });
    }
    for (stand, (server, product)) in started.into_iter().enumerate() {
        let loads: Vec<Load> =
            SHAPES.iter().map(|shape| Load::open(server.addr, *shape, &tls)).collect::<Result<_>>()?;
        match &product {
            None => kinds.extend(empty_kinds(stand).filter(|kind| !arguments.vault || kind.row.is(WIDE))),
            Some((name, data)) if arguments.vault => {
                kinds.extend(vault_kinds(stand, name, &Stand::prepare(server.addr, data, &tls)?));
            }
            Some((name, data)) => {
                let prepared = Stand::prepare(server.addr, data, &tls)?;
                kinds.extend(tree_kinds(stand, name, &prepared));
                if !arguments.tree && *name != PLAIN {
                    kinds.extend(product_kinds(stand, name, &prepared));
                }
            }
        }
        driven.push(Driven { server, loads, counts_syncs: product.is_some() });
    }
    Ok((driven, kinds, tls))
}

fn empty_kinds(stand: usize) -> impl Iterator<Item = Kind> {
    let name = if stand == 0 { BARE } else { OWN };
    SHAPES.iter().enumerate().map(move |(load, shape)| {
        let call = load::Call::grpc(empty::PATH, None, Bytes::from_static(&[0; 5]));
        Kind { row: Row::new(name, *shape), work: Work::Call { stand, load, call, items: 1 } }
    })
}

/// What the log's tree and receipts cost; beside the first of the product's own kinds.
fn tree_kinds(stand: usize, name: &str, prepared: &Stand) -> Vec<Kind> {
    let call = |what: &str, call: &load::Call| Kind {
        row: Row::new(format!("{what}, {name}"), WIDE),
        work: Work::Call { stand, load: WIDE_LOAD, call: call.clone(), items: 1 },
    };
    let plain =
        prepared.calls.iter().filter(|(what, _)| *what == DATA_KEY).map(|(_, data_key)| call(TREE_ROW, data_key));
    let for_receipt = (name == SIM).then(|| call(FOR_RECEIPT, &prepared.for_receipt));
    plain.filter(|_| name == SIM || name == PLAIN).chain(for_receipt).collect()
}

fn product_kinds(stand: usize, name: &str, prepared: &Stand) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for (load, shape) in SHAPES.iter().enumerate() {
        for (what, call) in &prepared.calls {
            let work = Work::Call { stand, load, call: call.clone(), items: 1 };
            kinds.push(Kind { row: Row::new(format!("{what}, {name}"), *shape), work });
        }
        if BATCH_SHAPES.contains(shape) {
            let work = Work::Call { stand, load, call: prepared.batch.clone(), items: BATCH };
            kinds.push(Kind { row: Row::new(batch_row(name), *shape), work });
        }
    }
    kinds.extend(vault_kinds(stand, name, prepared));
    kinds
}

fn vault_kinds(stand: usize, name: &str, prepared: &Stand) -> Vec<Kind> {
    let kind = |(what, call): &(&str, load::Call)| Kind {
        row: Row::new(format!("{what}, {name}"), WIDE),
        work: Work::Call { stand, load: WIDE_LOAD, call: call.clone(), items: 1 },
    };
    prepared.vault.iter().map(kind).collect()
}

/// Rates of these rows are keys a second.
pub(crate) fn batch_row(boundary: &str) -> String {
    format!("GenerateDataKey in batches of {BATCH} (keys), {boundary}")
}

fn measure(
    kind: &Kind,
    driven: &[Driven],
    folder: &Path,
    tls: &Arc<rustls::ClientConfig>,
    length: Duration,
) -> Result<Figures> {
    let (stand, load, call, items) = match &kind.work {
        Work::Raw => {
            let (seen, syncs, cpu) = raw::window(folder, kind.row.connections, RECORD_BYTES, length)?;
            return Ok(Figures::of(&seen, 1, (cpu, 0.0), Some(syncs)));
        }
        Work::Sink => {
            let (seen, syncs) = sink::window(folder, kind.row.connections, length)?;
            return Ok(Figures::of(&seen, 1, (0.0, 0.0), Some(syncs)));
        }
        Work::Call { stand, load, call, items } => (stand, load, call, *items),
    };
    let Driven { server, loads, counts_syncs } = &driven[*stand];
    let syncs = || if *counts_syncs { stand::syncs(server.addr, tls) } else { Ok(None) };
    let (syncs_before, cpu_before) = (syncs()?, server.cpu()?);
    let seen = loads[*load].window(call, length).with_context(|| format!("{:?}", kind.row))?;
    let (cpu_after, syncs_after) = (server.cpu()?, syncs()?);
    let cpu = (cpu_after.0 - cpu_before.0, cpu_after.1 - cpu_before.1);
    let syncs = syncs_before.zip(syncs_after).map(|(before, after)| after.saturating_sub(before));
    Ok(Figures::of(&seen, items, cpu, syncs))
}

fn print(report: &Report, driven: &[Driven], kinds: &[Kind]) -> Result<()> {
    say(&report.table(BARE));
    let mut names: Vec<&str> = Vec::new();
    for (stand, Driven { server, .. }) in driven.iter().enumerate() {
        let of = |kind: &&Kind| matches!(kind.work, Work::Call { stand: here, .. } if here == stand);
        let name = kinds.iter().find(of).map_or("", |kind| kind.row.subject.as_str());
        let name = name.rsplit_once(", ").map_or(name, |(_, last)| last);
        let (here, boundary) = server.resident()?;
        say(&format!("RSS at the end, {name}: server {:.1} MiB, boundary {:.1} MiB", mib(here), mib(boundary)));
        names.push(name);
    }
    verdict::tree(report).iter().for_each(|line| say(line));
    for name in [SIM, SOFTHSM].into_iter().filter(|name| names.contains(name)) {
        verdict::lines(report, name).iter().for_each(|line| say(line));
        verdict::vault(report, name).iter().for_each(|line| say(line));
    }
    Ok(())
}

/// The log that was to be without its tree was: nothing that was measured is signed.
fn is_without_tree(driven: &[Driven], kinds: &[Kind], tls: &Arc<rustls::ClientConfig>) -> Result<()> {
    for (stand, Driven { server, .. }) in driven.iter().enumerate() {
        let here = kinds.iter().find(|kind| matches!(kind.work, Work::Call { stand: at, .. } if at == stand));
        if here.is_some_and(|kind| kind.row.subject.ends_with(PLAIN)) {
            let signed = stand::signed(server.addr, tls)?;
            ensure!(
                signed <= stand::TILE_ENTRIES,
                "the tree of the log without one went on: {signed} entries are signed"
            );
        }
    }
    Ok(())
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// An empty folder, so that every run starts from nothing.
fn fresh(folder: &Path) -> Result<std::path::PathBuf> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder)?;
    Ok(folder.canonicalize()?)
}

fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, m)| m);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} × {model}")
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let altered = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
    if altered { format!("{head}, altered") } else { head }
}

#[expect(clippy::print_stdout, reason = "the run's result")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// What an entry of a GenerateDataKey takes.
const RECORD_BYTES: usize = 210;
const WARM_UP: Duration = Duration::from_millis(100);
const SMOKE_WINDOW: Duration = Duration::from_millis(30);
