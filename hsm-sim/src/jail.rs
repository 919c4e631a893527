//! Confinement: what this process takes from itself before it serves, and the page that holds its root keys.
//!
//! Order (each step needs what the later ones forbid): core dumps and ptrace off → memory locked → secret page →
//! sockets bound by the caller → own network namespace → capabilities dropped → no new privileges → Landlock →
//! seccomp. Threads start afterwards, so that each of them inherits all of it.
//!
//! Always: a measure that this kernel lacks is refused with its name, unless it was allowed by name; then the status
//! reports it as missing. Never: a measure that fails in silence.
//!
//! This is the one file with `unsafe`. Root with CAP_SYS_PTRACE can still attach: root is not defended against.
#![expect(unsafe_code, reason = "memory mappings and namespaces have no safe interface")]

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr};
use landlock::{BitFlags, RulesetStatus, Scope};
use rustix::mm::{Advice, MapFlags, MlockAllFlags, ProtFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::UnshareFlags;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::str::FromStr;
use zeroize::Zeroize;

/// What confines the process; each has the name under which it may be allowed to be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Core,
    Dumpable,
    Mlock,
    MemfdSecret,
    NoNewPrivs,
    Landlock,
    Seccomp,
}

impl Measure {
    pub const ALL: &'static [Self] =
        &[Self::Core, Self::Dumpable, Self::Mlock, Self::MemfdSecret, Self::NoNewPrivs, Self::Landlock, Self::Seccomp];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Dumpable => "dumpable",
            Self::Mlock => "mlock",
            Self::MemfdSecret => "memfd_secret",
            Self::NoNewPrivs => "no_new_privs",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }
}

/// Not the name of a measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one of core, dumpable, mlock, memfd_secret, no_new_privs, landlock, seccomp")]
pub struct UnknownMeasure;

impl FromStr for Measure {
    type Err = UnknownMeasure;

    fn from_str(raw: &str) -> Result<Self, UnknownMeasure> {
        Self::ALL.iter().copied().find(|measure| measure.name() == raw).ok_or(UnknownMeasure)
    }
}

/// A measure that this machine does not offer, and that nobody allowed to be missing.
#[derive(Debug, thiserror::Error)]
#[error("confinement `{name}` is not available here ({why}); run with --allow-missing {name} to go on without it", name = measure.name())]
pub struct NotConfined {
    pub measure: Measure,
    why: String,
}

/// Applies the measures one by one and keeps their outcomes for the status.
#[derive(Debug, Default)]
pub struct Confinement {
    allow_missing: Vec<Measure>,
    lock_by: LockBy,
    report: Vec<(String, String)>,
}

impl Confinement {
    pub fn new(allow_missing: Vec<Measure>) -> Self {
        Self { allow_missing, ..Self::default() }
    }

    /// First half: nothing of this process's memory reaches a disk or another process. Gives the page for root keys.
    pub fn protect_memory(&mut self) -> Result<SecretPage, NotConfined> {
        let no_core = Rlimit { current: Some(0), maximum: Some(0) };
        self.record(Measure::Core, rustix::process::setrlimit(Resource::Core, no_core).map_err(text))?;
        let hidden = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
        self.record(Measure::Dumpable, hidden.map_err(text))?;
        let locked = lock_memory().map(|by| self.lock_by = by);
        self.record(Measure::Mlock, locked)?;
        match SecretPage::secret() {
            Ok(page) => {
                self.record(Measure::MemfdSecret, Ok(()))?;
                Ok(page)
            }
            Err(error) => {
                self.record(Measure::MemfdSecret, Err(text(&error)))?;
                let ordinary = SecretPage::ordinary();
                ordinary.map_err(|error| NotConfined { measure: Measure::MemfdSecret, why: text(error) })
            }
        }
    }

    /// Second half, after sockets are bound and before threads start: only `folders` can be reached, and only the
    /// listed system calls. Gives the report.
    pub fn confine(mut self, folders: &[&Path]) -> Result<Vec<(String, String)>, NotConfined> {
        let network = own_network_namespace();
        self.note("network_namespace", network.map_or("missing".to_owned(), |()| "enforced".to_owned()));
        let dropped = drop_capabilities(self.lock_by).map(|()| match self.lock_by {
            LockBy::Limit => "enforced".to_owned(),
            LockBy::Capability => "enforced: all but CAP_IPC_LOCK".to_owned(),
        });
        self.note("capabilities", dropped.unwrap_or_else(|why| format!("missing: {why}")));
        // the kernel makes a process dumpable again when its credentials change
        let hidden = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
        if hidden.is_err() && !self.allow_missing.contains(&Measure::Dumpable) {
            return Err(NotConfined { measure: Measure::Dumpable, why: "it could not be repeated".to_owned() });
        }
        self.record(Measure::NoNewPrivs, rustix::thread::set_no_new_privs(true).map_err(text))?;
        match restrict_files(folders) {
            Ok(RulesetStatus::PartiallyEnforced) => {
                self.note(Measure::Landlock.name(), "fallback: an older kernel enforces part of it".to_owned());
            }
            Ok(RulesetStatus::FullyEnforced) => self.record(Measure::Landlock, Ok(()))?,
            Ok(RulesetStatus::NotEnforced) => {
                self.record(Measure::Landlock, Err("the kernel does not offer it".to_owned()))?;
            }
            Err(why) => self.record(Measure::Landlock, Err(why))?,
        }
        self.record(Measure::Seccomp, filter_system_calls())?;
        Ok(self.report)
    }

    fn record(&mut self, measure: Measure, outcome: Result<(), String>) -> Result<(), NotConfined> {
        match outcome {
            Ok(()) => self.note(measure.name(), "enforced".to_owned()),
            Err(_) if self.allow_missing.contains(&measure) => self.note(measure.name(), "missing".to_owned()),
            Err(why) => return Err(NotConfined { measure, why }),
        }
        Ok(())
    }

    fn note(&mut self, name: &str, outcome: String) {
        self.report.push((name.to_owned(), outcome));
    }
}

/// One page for root keys, out of reach of the kernel's own mappings, of core dumps and of children.
#[derive(Debug)]
pub struct SecretPage(NonNull<u8>);

/// Bytes of the page.
pub const PAGE_BYTES: usize = 4096;

// JUSTIFICATION: a raw pointer is neither; the page is plain memory that this value owns alone.
// SAFETY: access goes through `&self` and `&mut self`, so that the borrow checker keeps threads apart.
unsafe impl Send for SecretPage {}
// JUSTIFICATION: as above.
// SAFETY: `&self` only reads.
unsafe impl Sync for SecretPage {}

impl SecretPage {
    /// A page of memfd_secret(2).
    pub fn secret() -> io::Result<Self> {
        // JUSTIFICATION: no crate of ours offers the call.
        // SAFETY: memfd_secret takes flags only and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // JUSTIFICATION: the call above gave a bare number.
        // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::fs::ftruncate(&fd, PAGE_BYTES as u64)?;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // JUSTIFICATION: std cannot map memory.
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), PAGE_BYTES, protection, flags, &fd, 0) }?;
        Self::own(at)
    }

    /// Anonymous memory, locked where the limit allows: for tests, and where memfd_secret was allowed to be missing.
    pub fn ordinary() -> io::Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // JUSTIFICATION: std cannot map memory.
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
        let at = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), PAGE_BYTES, protection, flags) }?;
        // JUSTIFICATION: std has no way to pin memory.
        // SAFETY: `at` is a live mapping of PAGE_BYTES, and mlock neither reads nor writes through it.
        let _best_effort = unsafe { rustix::mm::mlock(at, PAGE_BYTES) };
        Self::own(at)
    }

    fn own(at: *mut c_void) -> io::Result<Self> {
        let page = Self(NonNull::new(at.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?);
        for advice in [Advice::LinuxDontDump, Advice::LinuxDontFork] {
            // JUSTIFICATION: std has no way to keep memory from dumps and children.
            // SAFETY: `at` is a live mapping of PAGE_BYTES; neither advice changes what it holds.
            unsafe { rustix::mm::madvise(at, PAGE_BYTES, advice) }?;
        }
        Ok(page)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // JUSTIFICATION: a mapping has no other form than a pointer.
        // SAFETY: `self` owns a live, initialised mapping of PAGE_BYTES until it drops.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), PAGE_BYTES) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // JUSTIFICATION: a mapping has no other form than a pointer.
        // SAFETY: `self` owns a live, initialised mapping of PAGE_BYTES, and `&mut self` keeps others away.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr(), PAGE_BYTES) }
    }
}

impl Drop for SecretPage {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        // JUSTIFICATION: std cannot unmap memory.
        // SAFETY: the mapping is ours, of this length, and no reference into it outlives `self`.
        let _nothing_to_do = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), PAGE_BYTES) };
    }
}

/// Closes a descriptor that the parent handed over by number, once it has been read.
pub(crate) fn close_inherited(n: u32) {
    if let Ok(fd) = i32::try_from(n)
        && fd > 2
    {
        // JUSTIFICATION: the descriptor came as a number, so no safe value owns it.
        // SAFETY: the caller names an inherited descriptor at start, which no value of this process owns.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// What lets memory be locked once capabilities are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum LockBy {
    /// The resource limit is high enough.
    #[default]
    Limit,
    /// It is not, and cannot be raised: CAP_IPC_LOCK is kept, which permits this and nothing else.
    Capability,
}

/// Nothing is swapped out. The limit is raised first: after capabilities are gone it binds every later mapping.
fn lock_memory() -> Result<LockBy, String> {
    let limit = rustix::process::getrlimit(Resource::Memlock);
    let unlimited = Rlimit { current: None, maximum: None };
    let lock_by = if rustix::process::setrlimit(Resource::Memlock, unlimited).is_ok() {
        LockBy::Limit
    } else if limit.maximum.is_none_or(|bytes| bytes >= MEMLOCK_BYTES_MIN) {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        rustix::process::setrlimit(Resource::Memlock, raised).map_err(text)?;
        LockBy::Limit
    } else if caps::has_cap(None, CapSet::Effective, Capability::CAP_IPC_LOCK).map_err(text)? {
        LockBy::Capability
    } else {
        return Err(format!("the limit of locked memory is below {MEMLOCK_BYTES_MIN} bytes: raise LimitMEMLOCK"));
    };
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    rustix::mm::mlockall(flags).map_err(text)?;
    Ok(lock_by)
}

fn own_network_namespace() -> io::Result<()> {
    // JUSTIFICATION: the safe form is deprecated, for the sake of a flag that is not used here.
    // SAFETY: NEWNET changes which network later sockets see; the descriptor table stays shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}

fn drop_capabilities(lock_by: LockBy) -> Result<(), String> {
    let kept = match lock_by {
        LockBy::Limit => CapsHashSet::new(),
        LockBy::Capability => CapsHashSet::from([Capability::CAP_IPC_LOCK]),
    };
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(text)? {
        // the running kernel may not know each capability of the list
        let known = caps::read(None, CapSet::Bounding).map_err(text)?;
        for capability in known {
            caps::drop(None, CapSet::Bounding, capability).map_err(text)?;
        }
    }
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).map_err(text)?;
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(text)?;
    }
    Ok(())
}

fn restrict_files(folders: &[&Path]) -> Result<RulesetStatus, String> {
    let allowed = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::Refer
        | AccessFs::ReadDir;
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI::V4)))
        .and_then(|ruleset| ruleset.scope(BitFlags::<Scope>::from_flag(Scope::AbstractUnixSocket) | Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(text)?;
    for folder in folders {
        let folder = PathFd::new(folder).map_err(text)?;
        ruleset = ruleset.add_rule(PathBeneath::new(folder, allowed)).map_err(text)?;
    }
    ruleset.restrict_self().map(|status| status.ruleset).map_err(text)
}

/// Two filters: clone3, whose flags a filter cannot see, is answered with ENOSYS, so that threads are made by clone,
/// whose flags it can; whatever is not on the list ends the process. The stricter answer of the two counts.
fn filter_system_calls() -> Result<(), String> {
    let arch = std::env::consts::ARCH.try_into().map_err(text)?;
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let no_clone3 = SeccompFilter::new(no_clone3, SeccompAction::Allow, enosys, arch).map_err(text)?;
    let rules = system_calls().map_err(text)?;
    let list = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch).map_err(text)?;
    for filter in [no_clone3, list] {
        let program = BpfProgram::try_from(filter).map_err(text)?;
        seccompiler::apply_filter_all_threads(&program).map_err(text)?;
    }
    Ok(())
}

fn system_calls() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = SYSTEM_CALLS.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(SYSTEM_CALLS_X86_64.iter().map(|call| (*call, Vec::new())));
    let only = |argument: u8, mask: i64, value: i64| {
        let (mask, value) = (mask.unsigned_abs(), value.unsigned_abs());
        let operator = SeccompCmpOp::MaskedEq(mask);
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let whole = i64::from(u32::MAX);
    let (exec, thread) = (i64::from(libc::PROT_EXEC), i64::from(libc::CLONE_THREAD));
    rules.insert(libc::SYS_clone, vec![only(0, thread, thread)?]);
    rules.insert(libc::SYS_mmap, vec![only(2, exec, 0)?]);
    rules.insert(libc::SYS_mprotect, vec![only(2, exec, 0)?]);
    let ioctls = [libc::FIONBIO, libc::FIOCLEX].map(i64::try_from).into_iter().flatten();
    rules.insert(libc::SYS_ioctl, ioctls.map(|request| only(1, whole, request)).collect::<Result<_, _>>()?);
    let names = [i64::from(libc::PR_SET_NAME), i64::from(libc::PR_SET_VMA)];
    rules.insert(libc::SYS_prctl, names.map(|option| only(0, whole, option)).into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Threads' stacks count in full.
const MEMLOCK_BYTES_MIN: u64 = 128 << 20;

/// What the listener, its pool, the allocator, the state folder and an orderly end need; nothing that starts a program,
/// makes a socket, reads another process or changes a namespace.
const SYSTEM_CALLS: &[i64] = &[
    // sockets that are open already
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // events
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // files: Landlock says which
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fchmod,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_getcwd,
    // memory
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // threads (clone3: the other filter answers), signals, time, randomness
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Older forms that the C library and rustix still take on this architecture.
#[cfg(target_arch = "x86_64")]
const SYSTEM_CALLS_X86_64: &[i64] = &[
    libc::SYS_open,
    libc::SYS_epoll_wait,
    libc::SYS_poll,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_chmod,
    libc::SYS_gettimeofday,
    libc::SYS_time,
];
