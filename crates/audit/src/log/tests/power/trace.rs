//! A run as strace(1) saw it: every call by which a process changes files, from all of its threads, in order.
//!
//! Nothing in the log's own code takes part in this, so nothing goes round it; and all calls together, applied to a disk in
//! memory, must give the folder as it stands ([`Recording::of`] asserts it).

use super::disk::{Disk, Inode, Op};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Calls that are recorded. Those that are not understood end the test.
pub(super) const CALLS: &str = "open,openat,openat2,creat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,\
    fallocate,fsync,fdatasync,syncfs,sync,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,\
    link,linkat,symlink,symlinkat,copy_file_range,sendfile,splice,io_uring_setup";

/// Longest write that is recorded whole; longer ones must be of zeros.
pub(super) const STRING_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Clone)]
pub(super) enum Event {
    Op {
        ended: usize,
        op: Op,
    },
    /// Of one file or folder, or of all. It takes effect here, for what had ended when it began.
    Sync {
        began: usize,
        of: Option<Inode>,
    },
    /// A line that the process wrote into the file of notes.
    Note(String),
}

#[derive(Debug)]
pub(super) struct Recording {
    /// Before the run, with nodes for all that is made in it.
    pub(super) before: Disk,
    pub(super) events: Vec<Event>,
}

struct Call<'a> {
    name: &'a str,
    arguments: Vec<String>,
    result: String,
    began: usize,
    ended: usize,
}

impl Recording {
    /// `root` was as `before`, and is now as the run left it. `notes` is a file in it.
    pub(super) fn of(trace: &str, root: &Path, notes: &str, before: Disk) -> Self {
        let mut recorder = Recorder {
            root: root.to_owned(),
            notes: root.join(notes),
            live: before.clone(),
            positions: HashMap::new(),
            events: Vec::new(),
        };
        for call in calls(trace) {
            recorder.take(&call);
        }
        let after = Disk::of(root);
        if let Some(difference) = recorder.live.difference(&after) {
            panic!("the calls that were recorded do not make the folder that is there: {difference}");
        }
        let mut events = recorder.events;
        events.sort_by_key(|(line, _)| *line);
        let mut before = before;
        before.reserve(&recorder.live);
        Self { before, events: events.into_iter().map(|(_, event)| event).collect() }
    }
}

/// In the order in which they began, those that failed left out.
fn calls(trace: &str) -> Vec<Call<'_>> {
    let mut open: HashMap<&str, (usize, &str, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (line, text) in trace.lines().enumerate() {
        let (process, text) = text.split_once(' ').unwrap();
        let text = text.trim_start();
        if text.starts_with("+++") || text.starts_with("---") {
            continue;
        }
        let (began, name, rest) = match text.strip_prefix("<... ") {
            Some(resumed) => {
                let (began, name, mut begun) = open.remove(process).unwrap();
                begun.push_str(resumed.split_once(" resumed>").unwrap().1);
                (began, name, begun)
            }
            None => {
                let (name, rest) = text.split_once('(').unwrap();
                if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
                    open.insert(process, (line, name, begun.to_owned()));
                    continue;
                }
                (line, name, rest.to_owned())
            }
        };
        // a call during which the process ended has no result
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { continue };
        if result.starts_with('-') || result.starts_with('?') {
            continue;
        }
        let arguments = arguments.trim_end().strip_suffix(')').unwrap();
        let arguments = arguments.split(", ").map(|argument| argument.trim().to_owned()).collect();
        calls.push(Call { name, arguments, result: result.to_owned(), began, ended: line });
    }
    calls.sort_by_key(|call| call.began);
    calls
}

struct Recorder {
    root: PathBuf,
    notes: PathBuf,
    /// As the process sees it.
    live: Disk,
    /// Where the next write goes, by descriptor.
    positions: HashMap<String, usize>,
    events: Vec<(usize, Event)>,
}

impl Recorder {
    fn take(&mut self, call: &Call<'_>) {
        let argument = |at: usize| call.arguments[at].as_str();
        match call.name {
            "openat" => self.open(call),
            "write" | "pwrite64" => self.write(call),
            "ftruncate" => {
                let Some(inode) = self.descriptor(argument(0)) else { return };
                self.op(call, Op::Length { inode, length: argument(1).parse().unwrap() });
            }
            "fallocate" => {
                let Some(inode) = self.descriptor(argument(0)) else { return };
                let end = argument(2).parse::<usize>().unwrap() + argument(3).parse::<usize>().unwrap();
                let length = self.live.length(inode).max(end);
                self.op(call, Op::Length { inode, length });
            }
            "fsync" | "fdatasync" => {
                let of = self.descriptor(argument(0));
                if of.is_some() {
                    self.events.push((call.ended, Event::Sync { began: call.began, of }));
                }
            }
            "syncfs" => self.events.push((call.ended, Event::Sync { began: call.began, of: None })),
            "mkdir" => {
                let Some((folder, name)) = self.place(argument(0)) else { return };
                let inode = self.live.folder();
                self.op(call, Op::Link { folder, name, inode });
            }
            "rename" => {
                let (Some(from), Some(to)) = (self.place(argument(0)), self.place(argument(1))) else { return };
                let inode = self.inode(argument(0)).unwrap();
                self.op(call, Op::Rename { from, to, inode });
            }
            "unlink" | "rmdir" => {
                let (Some((folder, name)), Some(inode)) = (self.place(argument(0)), self.inode(argument(0))) else {
                    return;
                };
                self.op(call, Op::Unlink { folder, name, inode });
            }
            other => {
                let ours = hex::encode(self.root.as_os_str().as_encoded_bytes());
                let ours: String =
                    ours.as_bytes().chunks(2).map(|two| format!("\\x{}", str::from_utf8(two).unwrap())).collect();
                assert!(!call.arguments.iter().any(|argument| argument.contains(&ours)), "{other} is not understood");
            }
        }
    }

    fn open(&mut self, call: &Call<'_>) {
        self.positions.insert(call.result.split('<').next().unwrap().to_owned(), 0);
        let (path, flags) = (&call.arguments[1], &call.arguments[2]);
        let Some((folder, name)) = self.place(path) else { return };
        match self.inode(path) {
            None if flags.contains("O_CREAT") => {
                let inode = self.live.file();
                self.op(call, Op::Link { folder, name, inode });
            }
            Some(inode) if flags.contains("O_TRUNC") && self.live.length(inode) > 0 => {
                self.op(call, Op::Length { inode, length: 0 });
            }
            Some(_) | None => {}
        }
    }

    fn write(&mut self, call: &Call<'_>) {
        let written: usize = call.result.parse().unwrap();
        let number = call.arguments[0].split('<').next().unwrap().to_owned();
        let offset = match call.arguments.get(3) {
            Some(offset) => offset.parse().unwrap(),
            None => {
                let position = self.positions.entry(number).or_default();
                *position += written;
                *position - written
            }
        };
        let Some(path) = path_of(&call.arguments[0]) else { return };
        let Some(inode) = self.descriptor(&call.arguments[0]) else { return };
        let (mut bytes, whole) = string(&call.arguments[1]);
        assert!(whole || bytes.iter().all(|byte| *byte == 0), "a write of {written} bytes was not recorded whole");
        bytes.resize(written, 0);
        if path == self.notes {
            let note = String::from_utf8(bytes.clone()).unwrap().trim_end().to_owned();
            self.events.push((call.began, Event::Note(note)));
        }
        self.op(call, Op::Write { inode, offset, bytes });
    }

    fn op(&mut self, call: &Call<'_>, op: Op) {
        self.live.apply(&op);
        self.events.push((call.began, Event::Op { ended: call.ended, op }));
    }

    fn descriptor(&self, argument: &str) -> Option<Inode> {
        let path = path_of(argument)?;
        self.live.find(path.strip_prefix(&self.root).ok()?)
    }

    fn inode(&self, argument: &str) -> Option<Inode> {
        self.live.find(named(argument).strip_prefix(&self.root).ok()?)
    }

    /// The folder that holds the name, and the name; `None` for what is not ours.
    fn place(&self, argument: &str) -> Option<(Inode, String)> {
        let path = named(argument);
        let within = path.strip_prefix(&self.root).ok()?;
        let folder = self.live.find(within.parent()?)?;
        Some((folder, within.file_name()?.to_str()?.to_owned()))
    }
}

/// `7<\x2f…>`.
fn path_of(descriptor: &str) -> Option<PathBuf> {
    let hex = descriptor.split_once('<')?.1.split_once('>')?.0;
    Some(PathBuf::from(String::from_utf8(unescaped(hex)).unwrap()))
}

fn named(argument: &str) -> PathBuf {
    PathBuf::from(String::from_utf8(string(argument).0).unwrap())
}

/// `"\x2f…"`, and dots behind it where it is not whole.
fn string(argument: &str) -> (Vec<u8>, bool) {
    let quoted = argument.strip_suffix("...").unwrap_or(argument);
    (unescaped(quoted.trim_matches('"')), quoted.len() == argument.len())
}

fn unescaped(hex: &str) -> Vec<u8> {
    hex.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}
