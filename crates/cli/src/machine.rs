//! The machine by the kernel's account.

/// The processor's name.
pub(crate) fn processor() -> Option<String> {
    field("/proc/cpuinfo", "model name")
}

/// The size of the memory in bytes.
pub(crate) fn memory() -> Option<u64> {
    bytes_of(&field(MEMORY, "MemTotal")?)
}

/// The memory in bytes that is free for programs.
pub(crate) fn available_memory() -> Option<u64> {
    bytes_of(&field(MEMORY, "MemAvailable")?)
}

const MEMORY: &str = "/proc/meminfo";

/// A size as the kernel writes it, such as `24684084 kB`.
fn bytes_of(size: &str) -> Option<u64> {
    let kilobytes: u64 = size.strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}

fn field(path: &str, name: &str) -> Option<String> {
    field_of(&std::fs::read_to_string(path).ok()?, name)
}

/// The value after `name` and a colon in a text of lines.
fn field_of(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\n";
        assert_eq!(field_of(text, "model name").as_deref(), Some("AMD EPYC"));
        assert_eq!(field_of(text, "absent"), None);
    }

    #[test]
    fn sizes_are_in_bytes() {
        assert_eq!(bytes_of("24 kB"), Some(24 * 1024));
        assert_eq!(bytes_of("much"), None);
        assert!(available_memory() > Some(1 << 20));
        assert!(available_memory() < memory());
    }
}
