//! `ioband mount`: starts the daemon, and returns when the mount answers.
//!
//! The command starts itself again with `--foreground --ready`. That child is the daemon: it keeps the terminal's
//! standard error until the mount is ready, so start-up errors are seen where the command was typed, says so on
//! standard output, which is a pipe to the command, and only then lets go of the terminal.

use super::{probe, say};
use crate::config::Plan;
use crate::daemon;
use crate::device::BackendKind;
use crate::fuse::{LEAST_MEMORY, LOG_FILTER, ServeOptions, TransportKind};
use crate::keeper::{self, Facts, Keeping, Kept};
use crate::sandbox::{self, Report, Wall};
use crate::units::Bytes;
use anyhow::{Context, anyhow, bail};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use rustix::process::{getpriority_process, setpriority_process};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Read, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::MakeWriterExt;

/// What the daemon says when the mount answers.
const READY: &str = "ready";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration (see `mountconfigs/` for examples)
    config: PathBuf,
    /// Where to mount; made if it is missing. Default: `mountpoint` of the configuration
    mountpoint: Option<PathBuf>,
    /// Stay in the foreground and log to standard error
    #[arg(long, short)]
    foreground: bool,
    /// Keep a log; without it, only `events` in the control directory tells what happened to a daemon
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How to talk to devices: io_uring where the kernel allows it, threads otherwise
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// How requests come from the kernel: by /dev/fuse, where the mount outlives a process that dies (auto), or faster by
    /// io_uring, where it ends with it
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    transport: Transport,
    /// Requests that can be accepted and not yet answered: in all by /dev/fuse, on each processor by io_uring, but there no
    /// more than 57,343 in all. Each takes about 10 KiB while it is there, and its data
    #[arg(long, value_name = "N", default_value_t = 4608, value_parser = clap::value_parser!(u32).range(16..=65536))]
    slots: u32,
    /// Memory for the data of requests that are held or on their way, at least 16MiB. When it gets short, writes are carried
    /// out before it is their turn, those of whoever floods first, and answered in their turn
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = memory)]
    memory: Bytes,
    /// Of that, what is kept ready for large requests when they are over; at most a quarter of it is
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    keep_memory: Bytes,
    /// Let every request pass at once, whatever its group: only to measure what scheduling costs
    #[arg(long)]
    no_scheduling: bool,
    /// Serve outside the sandbox, or outside these parts of it: to find a fault, or to use a debugger. `ioband ls -v` shows
    /// what is in force
    #[arg(long, value_enum, value_name = "PART,…", num_args = 0..=1, require_equals = true, value_delimiter = ',')]
    #[arg(default_missing_value = "capabilities,privileges,seccomp,landlock")]
    no_sandbox: Vec<Part>,
    /// Used by `mount` itself: say on standard output when ready, then leave the terminal
    #[arg(long, hide = true)]
    ready: bool,
    /// Used by `mount` itself: serve what a keeper, at standard input, keeps
    #[arg(long, hide = true)]
    worker: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Transport {
    Auto,
    Dev,
    Uring,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Part {
    Capabilities,
    Privileges,
    Seccomp,
    Landlock,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Backend {
    Auto,
    Uring,
    Threads,
}

fn memory(text: &str) -> Result<Bytes, String> {
    let size: Bytes = text.parse().map_err(|error: crate::units::SizeError| error.to_string())?;
    if size.0 < LEAST_MEMORY { Err(format!("it takes at least {}", Bytes(LEAST_MEMORY))) } else { Ok(size) }
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.worker {
        serve(args)
    } else if args.foreground {
        keep(&args)
    } else {
        start_daemon(&args)
    }
}

/// Keeps the mount that workers serve.
fn keep(args: &Args) -> anyhow::Result<ExitCode> {
    start_log(args)?;
    let typed = with_log_from_the_root(std::env::args_os().skip(2));
    let arguments = ["mount", "--worker"].map(OsString::from).into_iter().chain(typed);
    keeper::keep(Keeping {
        arguments: arguments.collect(),
        ready: |mounted: &Path, summary: &str| match args.ready {
            true => {
                let told = write_ready(mounted, summary);
                // Also if the command is not there any more to hear it.
                detach().and(told)
            }
            false => {
                tracing::info!("mounted at {}: {summary}", mounted.display());
                Ok(())
            }
        },
    })
}

/// The arguments as they mean the same in any folder: workers of later days start in another one.
fn with_log_from_the_root(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let from_the_root =
        |path: &OsStr| std::path::absolute(path).map_or_else(|_| path.into(), PathBuf::into_os_string);
    let mut is_log = false;
    arguments.map(move |argument| {
        let follows = std::mem::replace(&mut is_log, argument == "--log");
        match argument.to_str().and_then(|argument| argument.strip_prefix("--log=")) {
            Some(path) => {
                let mut whole = OsString::from("--log=");
                whole.push(from_the_root(path.as_ref()));
                whole
            }
            None if follows => from_the_root(&argument),
            None => argument,
        }
    })
}

/// Serves a mount that is kept.
fn serve(args: Args) -> anyhow::Result<ExitCode> {
    start_log(&args)?;
    // Of its program file it knows the number only.
    let _ = nix::sys::prctl::set_name(c"ioband");
    go_before_callers();
    // Before anything is read that others have written, and before there are threads.
    let off: Vec<_> = args.no_sandbox.iter().map(|part| part.wall()).collect();
    let sandbox = sandbox::enter(&off)?;
    serve_kept(&args, Kept::begin()?, sandbox)
}

/// Serving is little work that many wait for: it goes before what callers compute, as it does where the kernel serves a disk.
/// With a storm of requests it would otherwise have used its turn, and stand in line with the programs that made the storm.
/// Only root can; who has started us with another priority meant it.
fn go_before_callers() {
    const NICE: i32 = -10;
    if getpriority_process(None) == Ok(0)
        && let Err(error) = setpriority_process(None, NICE)
    {
        tracing::debug!(%error, "requests are served with the priority of every program");
    }
}

impl Part {
    fn wall(self) -> Wall {
        match self {
            Self::Capabilities => Wall::Capabilities,
            Self::Privileges => Wall::Privileges,
            Self::Seccomp => Wall::Seccomp,
            Self::Landlock => Wall::Landlock,
        }
    }
}

fn serve_kept(args: &Args, kept: Kept, sandbox: Report) -> anyhow::Result<ExitCode> {
    let facts = Facts::read(&kept.ledger)?.filter(|_| kept.begin.inherits);
    let configuration = match &facts {
        Some(facts) => Ok(probe::configuration_of_mount(&facts.folder, &facts.file)),
        None => probe::configuration(&args.config),
    };
    let configuration = match configuration {
        Ok(configuration) => configuration,
        Err(report) => {
            kept.unfit(&report.to_string());
            eprintln!("{report}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let mountpoint = match facts {
        Some(facts) => facts.place.mountpoint,
        None => mountpoint(args, configuration.says.as_ref().map(|(plan, _)| plan))?,
    };
    let backend = match args.backend {
        Backend::Auto => BackendKind::Auto,
        Backend::Uring => BackendKind::Uring,
        Backend::Threads => BackendKind::Threads,
    };
    let transport = match args.transport {
        Transport::Auto => TransportKind::Auto,
        Transport::Dev => TransportKind::Dev,
        Transport::Uring => TransportKind::Uring,
    };
    let [memory, keep] =
        [args.memory, args.keep_memory].map(|size| usize::try_from(size.0).unwrap_or(usize::MAX));
    let serve = ServeOptions { transport, backend, slots: args.slots, memory, keep };
    let options = daemon::Options { serve, unscheduled: args.no_scheduling, sandbox };
    daemon::serve(configuration, &mountpoint, options, kept, |plan| {
        if args.ready {
            detach()?;
        }
        Ok(summary(plan))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn mountpoint(args: &Args, plan: Option<&Plan>) -> anyhow::Result<PathBuf> {
    args.mountpoint.clone().or_else(|| plan?.mountpoint.clone()).ok_or_else(|| {
        anyhow!(
            "no mount point: give one after the configuration (`ioband mount {} /vmdisk`) or set `mountpoint:` in it",
            args.config.display()
        )
    })
}

fn summary(plan: &Plan) -> String {
    // As many as somebody reads.
    const MOST: usize = 50;
    let named = plan.images.iter().take(MOST).map(|image| format!("{} ({})", image.name, image.size()));
    let more = plan.images.len().saturating_sub(MOST);
    let more = (more > 0).then(|| format!("and {more} more images"));
    let all: Vec<_> = named.chain(more).collect();
    if all.is_empty() { "no images".to_owned() } else { all.join(", ") }
}

/// Logs to standard error, which is the terminal's until the daemon leaves it, and to the file that was asked for.
fn start_log(args: &Args) -> anyhow::Result<()> {
    let filter = match std::env::var("IOBAND_LOG") {
        Ok(wanted) => EnvFilter::try_new(&wanted).with_context(|| {
            format!("IOBAND_LOG={wanted} is no log filter; write a level such as debug, or target=level")
        })?,
        Err(_) => EnvFilter::new(format!("info,{LOG_FILTER}")),
    };
    let file = args.log.as_deref().map(open_log).transpose();
    // Who goes on with a mount does so without a log, if need be.
    let file = if args.worker { file.ok().flatten() } else { file? };
    // Colours are for terminals, and a file is none.
    let colours = file.is_none() && !args.ready && std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    // The terminal of who starts a daemon is for what is wrong.
    let terminal = std::io::stderr.with_max_level(if args.ready { Level::WARN } else { Level::TRACE });
    match file {
        Some(file) => log.with_writer(terminal.and(Arc::new(file))).init(),
        None => log.with_writer(terminal).init(),
    }
    Ok(())
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("cannot open the log {}", path.display()))
}

/// The mount is ready: tells the command.
fn write_ready(mounted: &Path, summary: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "{READY}ioband: mounted at {}: {summary}", mounted.display())?;
    Ok(stdout.flush()?)
}

/// Leaves the terminal of whoever typed the command, with its session and its folder.
fn detach() -> anyhow::Result<()> {
    // Fails only for the leader of a process group, which a child of the command is not.
    setsid().context("cannot leave the terminal")?;
    std::env::set_current_dir("/").context("cannot leave the folder")?;
    let null =
        OpenOptions::new().read(true).write(true).open("/dev/null").context("cannot open /dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// Closes what the caller left open besides the standard descriptors. A daemon that kept it would hold a script's
/// `flock` or the end of somebody's pipe for as long as it lives.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<RawFd> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|number| *number > 2) {
        // The descriptor of the listing itself is among them, and closed already.
        let _ = nix::unistd::close(descriptor);
    }
}

fn start_daemon(args: &Args) -> anyhow::Result<ExitCode> {
    close_inherited();
    let program = std::env::current_exe().context("cannot find my own program file")?;
    // Before the arguments: what comes after a `--` would not be taken for an option.
    let mut daemon = Command::new(program)
        .args(["mount", "--foreground", "--ready"])
        .args(std::env::args_os().skip(2))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the daemon")?;
    let mut said = String::new();
    if let Some(mut stdout) = daemon.stdout.take() {
        // Ends when the daemon lets go of its standard output, or ends.
        stdout.read_to_string(&mut said).context("cannot hear the daemon")?;
    }
    if let Some(message) = said.strip_prefix(READY) {
        say(&format!("{message}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    // It has said on standard error what was wrong.
    let status = daemon.wait().context("cannot wait for the daemon")?;
    match status.code() {
        Some(code) if code != 0 => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        _ => bail!("the daemon for {} ended before it was ready ({status})", args.config.display()),
    }
}
