//! The machine by the kernel's account.

/// The processor's name.
pub(crate) fn processor() -> Option<String> {
    field("/proc/cpuinfo", "model name")
}

/// The size of the memory, such as `24684084 kB`.
pub(crate) fn memory() -> Option<String> {
    field("/proc/meminfo", "MemTotal")
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
}
