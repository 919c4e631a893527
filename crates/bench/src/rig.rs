//! Children that are measured, and what the kernel says of them: CPU time, resident memory.

use anyhow::{Context as _, Result, bail};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A child that printed `ready ADDR`.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
    /// Processes whose CPU and memory count: the server's, and the boundary's if there is one.
    pub(crate) server: u32,
    pub(crate) boundary: Option<u32>,
}

impl Server {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let Some(addr) = line.trim().strip_prefix("ready ") else {
            bail!("{} did not get ready", command.get_program().display())
        };
        let addr = addr.parse()?;
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let (mut server, mut boundary) = (child.id(), None);
        for pid in children_of(child.id())? {
            match name_of(pid)?.as_str() {
                "strongroom" => server = pid,
                "hsm-sim" | "hsm-pkcs11" => boundary = Some(pid),
                _ => {}
            }
        }
        Ok(Self { child, addr, server, boundary })
    }

    /// CPU seconds used so far: server, boundary.
    pub(crate) fn cpu(&self) -> Result<(f64, f64)> {
        Ok((cpu_secs(self.server)?, self.boundary.map_or(Ok(0.0), cpu_secs)?))
    }

    /// Resident KiB: server, boundary.
    pub(crate) fn resident(&self) -> Result<(u64, u64)> {
        Ok((resident_kib(self.server)?, self.boundary.map_or(Ok(0), resident_kib)?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of the same build.
pub(crate) fn sibling(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

fn children_of(pid: u32) -> Result<Vec<u32>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(child) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if status_field(child, "PPid:").is_ok_and(|parent| parent == pid.to_string()) {
            out.push(child);
        }
    }
    Ok(out)
}

fn name_of(pid: u32) -> Result<String> {
    status_field(pid, "Name:")
}

fn resident_kib(pid: u32) -> Result<u64> {
    Ok(status_field(pid, "VmRSS:")?.trim_end_matches("kB").trim().parse()?)
}

fn status_field(pid: u32, field: &str) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("the kernel tells no such field")?;
    Ok(line.trim().to_owned())
}

pub(crate) fn cpu_secs(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // proc_pid_stat(5): fields 14 and 15, counted after the name, which may hold spaces
    let rest = stat.rsplit_once(')').context("the kernel's line has no name")?.1;
    let ticks: Vec<f64> = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / rustix::param::clock_ticks_per_second() as f64)
}

/// The load average, as the kernel prints it.
pub(crate) fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg")
        .map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" "))
        .unwrap_or_default()
}

/// A client configuration that trusts these CAs.
pub(crate) fn client_tls(trusted: &[PathBuf]) -> Result<rustls::ClientConfig> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    for ca in trusted {
        roots.add(CertificateDer::from_pem_file(ca)?)?;
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
