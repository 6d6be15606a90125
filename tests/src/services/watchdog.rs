//! Ends what we started when we cannot do it ourselves any more.
//!
//! The watchdog is a shell reading from a pipe whose only other end is ours. However we
//! die, SIGKILL included, the kernel closes that end; the shell then ends the registered
//! process groups and removes the registered folders. A clean stop closes the pipe on
//! purpose and waits for the shell, so there is one way to end and every test walks it.
//!
//! The pipe is close-on-exec (std sees to it), or a service would keep it open. What stays
//! uncovered is the instant between a spawn and the line that reports it.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// How long the registered processes have, together, before SIGKILL: 250 polls of 20 ms.
/// A zombie counts as ended: its parent may be us, and we may be gone or not looking.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
PATH="$PATH:/usr/bin:/bin"
groups=
set --
while read -r verb rest; do
  case $verb in
    pid) groups="$rest $groups" ;;
    forget) kept=
      for g in $groups; do [ "${g#*:}" = "$rest" ] || kept="$kept $g"; done
      groups=$kept ;;
    dir) set -- "$@" "$rest" ;;
  esac
done
alive() {
  kill -0 "$1" || return 1
  if [ -r "/proc/$1/stat" ]; then read -r _ _ state _ <"/proc/$1/stat"
  else state=$(ps -o stat= -p "$1"); fi
  case $state in Z*) return 1 ;; esac
}
for g in $groups; do kill -s "${g%%:*}" -- "-${g#*:}"; done
polls=0
for g in $groups; do
  while alive "${g#*:}"; do
    if [ $((polls += 1)) -gt 250 ]; then kill -s KILL -- "-${g#*:}"; break; fi
    sleep 0.02
  done
done
[ $# -eq 0 ] && exit 0
polls=0
until rm -rf -- "$@"; do
  [ $((polls += 1)) -gt 25 ] && exit 1
  sleep 0.02
done
"#;

/// The signal that asks a process to end in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// SIGINT; for Postgres the fast shutdown, which does not wait for its clients.
    Interrupt,
    /// SIGTERM; for everybody else.
    Terminate,
}

/// A shell that outlives us just long enough to tidy up.
///
/// Dropping it ends everything registered and blocks until that is done: tens of
/// milliseconds as a rule, a little over 5 s when something ignores its signal.
#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
}

impl Watchdog {
    /// Starts the shell, in a process group of its own: Ctrl-C in the terminal is our
    /// business, not its.
    ///
    /// # Errors
    /// If `/bin/sh` cannot be started.
    pub fn start() -> Result<Self> {
        let shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, &format!("watchdog-of-{}", std::process::id())])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("could not start the watchdog, /bin/sh")?;
        Ok(Self { shell })
    }

    /// Ends the process group led by `pid` when we are gone. The process must have been
    /// started with `process_group(0)`: the whole group is signalled.
    ///
    /// # Errors
    /// If the watchdog itself is gone; then the caller ends its process itself.
    pub fn ends(&self, pid: u32, with: Ending) -> Result<()> {
        let signal = match with {
            Ending::Interrupt => "INT",
            Ending::Terminate => "TERM",
        };
        self.tell(format!("pid {signal}:{pid}\n").as_bytes())
    }

    /// Takes back [`Watchdog::ends`] for a process that has ended, whose number the system
    /// may give to somebody else.
    ///
    /// # Errors
    /// If the watchdog itself is gone.
    pub fn forgets(&self, pid: u32) -> Result<()> {
        self.tell(format!("forget {pid}\n").as_bytes())
    }

    /// Removes `folder`, an absolute path, and all that is in it when we are gone.
    ///
    /// # Errors
    /// If the path is relative or holds a line break, or the watchdog itself is gone.
    pub fn removes(&self, folder: &Path) -> Result<()> {
        let path = folder.as_os_str().as_bytes();
        ensure!(
            folder.is_absolute() && !path.contains(&b'\n'),
            "the watchdog cannot remove a folder named {}",
            folder.display()
        );
        self.tell(&[b"dir ", path, b"\n"].concat())
    }

    /// Closes the pipe and waits until everything registered is gone.
    ///
    /// # Errors
    /// If a registered folder could not be removed, or somebody killed the watchdog.
    pub async fn finish(mut self) -> Result<()> {
        let status = tokio::task::spawn_blocking(move || self.shell.wait()).await??;
        ensure!(status.success(), "the watchdog did not tidy up to the end: {status}");
        Ok(())
    }

    /// One `write` of one line: a pipe keeps lines this short whole, so `&self` will do.
    fn tell(&self, line: &[u8]) -> Result<()> {
        let mut pipe = self.shell.stdin.as_ref().context("the watchdog's pipe is closed")?;
        pipe.write_all(line).context("the watchdog, which cleans up behind us, is gone")
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // `wait` closes the pipe first. After `finish` it returns what it knows already.
        let _ = self.shell.wait();
    }
}
