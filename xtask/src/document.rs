//! Pieces of the documents that the comparisons write: tables between markers, figures, and the machine.

use anyhow::{Context, Result};
use fs_err as fs;
use wording::thousands;

use crate::checkout::Checkout;

/// Puts tables between the markers of a document, with an empty line on each side.
pub(crate) fn write(
    checkout: &Checkout,
    document: &str,
    markers: [&str; 2],
    tables: &str,
) -> Result<()> {
    let path = checkout.root.join(document);
    let text = replaced(&fs::read_to_string(&path)?, markers, tables)
        .with_context(|| format!("the tables could not be put into {document}"))?;
    fs::write(&path, text)?;
    eprintln!("the tables are in {document}");
    Ok(())
}

fn replaced(document: &str, [begin, end]: [&str; 2], tables: &str) -> Result<String> {
    let (before, rest) = document
        .split_once(begin)
        .with_context(|| format!("there is no `{begin}`"))?;
    let (_, after) = rest
        .split_once(end)
        .with_context(|| format!("there is no `{end}`"))?;
    let tables = tables.trim_end();
    Ok(format!("{before}{begin}\n\n{tables}\n\n{end}{after}"))
}

/// The measured state of the sources, as git names it.
pub(crate) fn commit(checkout: &Checkout) -> String {
    xshell::cmd!(checkout.shell, "git describe --always --dirty")
        .quiet()
        .ignore_stderr()
        .read()
        .unwrap_or_else(|_| "unknown".to_owned())
}

/// The processor with its threads, extensions and memory.
pub(crate) fn machine() -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
    };
    let info = read("/proc/cpuinfo");
    let model = field(&info, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let flags = field(&info, "flags").unwrap_or_default();
    let extensions: Vec<&str> = [
        ("avx2", "AVX2"),
        ("avx512f", "AVX-512"),
        ("avx512_bf16", "AVX512_BF16"),
        ("avx512_fp16", "AVX512-FP16"),
        ("amx_bf16", "AMX-BF16"),
    ]
    .into_iter()
    .filter(|(flag, _)| flags.split(' ').any(|known| known == *flag))
    .map(|(_, name)| name)
    .collect();
    let kilobytes = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok());
    let memory = kilobytes.map_or_else(String::new, |n| format!(", {:.0} GiB", n / 1048576.0));
    format!(
        "{threads} threads of {model} ({}){memory}",
        extensions.join(", ")
    )
}

/// A figure with three significant digits, and commas between thousands.
pub(crate) fn figure(value: f64) -> String {
    if value >= 100.0 {
        thousands(value.round() as usize)
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_markers_is_replaced() -> Result<()> {
        let markers = ["<!-- begin -->", "<!-- end -->"];
        let document = "# Top\n\n<!-- begin -->\nold\n<!-- end -->\n\nrest\n";
        let new = replaced(document, markers, "new\n")?;
        assert_eq!(
            new,
            "# Top\n\n<!-- begin -->\n\nnew\n\n<!-- end -->\n\nrest\n"
        );
        assert_eq!(replaced(&new, markers, "new\n")?, new);
        assert!(replaced("# Top\n", markers, "new").is_err());
        Ok(())
    }

    #[test]
    fn figures_have_three_digits() {
        let shown = [0.5, 12.34, 999.4, 1_234_567.0].map(figure);
        assert_eq!(shown, ["0.50", "12.3", "999", "1,234,567"]);
    }
}
