//! What the figures were measured on.

use serde::Serialize;

/// Facts about this machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Processors that this program may use.
    pub(crate) cores: usize,
    /// The processor as it calls itself.
    pub(crate) processor: String,
    /// The kernel's version, without what its builder called it.
    pub(crate) kernel: String,
    /// All memory.
    pub(crate) memory_mib: u64,
    /// The load average over one minute; a figure above zero says that others were at work.
    pub(crate) load_average: String,
}

impl Machine {
    /// Reads the facts; what cannot be read stays empty.
    pub(crate) fn read() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            kernel: version(&read("/proc/sys/kernel/osrelease")),
            memory_mib: memory.trim_end_matches(" kB").parse::<u64>().map_or(0, |kib| kib / 1024),
            load_average: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

fn version(release: &str) -> String {
    release
        .trim()
        .split(|mark: char| mark != '.' && !mark.is_ascii_digit())
        .next()
        .unwrap_or_default()
        .to_owned()
}
