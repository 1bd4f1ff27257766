//! The page of some runs: its parts, its size, its safety against the texts of data, and its behaviour in a browser.

#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::{
    fs,
    io::ErrorKind,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use report::{
    Analysis, Difference, Labels, Page, Run, RunFiles, Sample, Side, TextColumn, table::Table,
};
use search::Similarity;

/// Text of a data set that would be a script in a page that does not escape it.
const HOSTILE: &str =
    "</script><script>window.__errors.push('ran')</script><img src=x onerror=alert(1)>";

fn run(name: &str, rate: &str, after: f64) -> Run {
    let entry = |step: usize| {
        let loss = 2.0 / (step as f64).sqrt();
        format!(
            "{{\"loss\":{loss},\"grad_norm\":{},\"learning_rate\":{rate},\"epoch\":0.1,\"step\":{step}}}\n",
            3.0 * loss
        )
    };
    let mut metrics: String = (1..=3000).map(entry).collect();
    metrics +=
        "{\"eval_loss\":0.9,\"eval_runtime\":1.0,\"eval_t_cosine_accuracy\":0.8,\"step\":3000}\n";
    let results = format!(
        r#"{{"before":{{"t_cosine_accuracy":0.7}},"after":{{"t_cosine_accuracy":{after}}},"primary_metric":"t_cosine_accuracy","train":{{"train_runtime":65.0,"train_samples_per_second":40.0,"train_loss":0.4,"step":3000}}}}"#
    );
    let config = format!(
        "model = \"models/mini\"\ntrain-data = \"data/train.csv\"\nlearning-rate = {rate}\nloss.name = \"mnrl\"\n"
    );
    Run::parse(&RunFiles {
        name,
        config: &config,
        metrics: &metrics,
        results: Some(&results),
        profile: Some(r#"{"parts":{"matrix products":54.0,"rest":6.0}}"#),
        environment: None,
    })
    .unwrap()
}

fn analysis() -> Analysis {
    const N: usize = 60;
    let names = ["anchor", "positive", "negative"];
    let texts: Vec<Vec<String>> = names
        .iter()
        .map(|name| (0..N).map(|i| format!("{name} {i} {HOSTILE}")).collect())
        .collect();
    let columns = names.iter().zip(&texts).map(|(name, texts)| TextColumn {
        name,
        texts: texts.iter().map(String::as_str).collect(),
    });
    // Positives and negatives at angles that depend on the row, and on the side.
    let side = |after: f64| {
        let angles: Vec<f64> = (0..N).map(|i| i as f64 * 0.1).collect();
        let near = |i: usize| 0.02 + 0.3 * (1.0 - after) * ((i * 7 % 10) as f64 / 10.0);
        let columns: [Vec<f64>; 3] = [
            angles.clone(),
            (0..N).map(|i| angles[i] + near(i)).collect(),
            (0..N).map(|i| angles[i] + 0.15).collect(),
        ];
        let places = columns.iter().flatten().map(|a| (a.cos(), a.sin()));
        Side {
            projection: places.collect(),
            columns: columns
                .iter()
                .map(|angles| {
                    angles
                        .iter()
                        .flat_map(|a| [a.cos() as f32, a.sin() as f32])
                        .collect()
                })
                .collect(),
            dimension: 2,
        }
    };
    Analysis::new(&Sample {
        columns: columns.collect(),
        labels: None::<Labels<'_>>,
        similarity: Similarity::Cosine,
        sides: [side(0.0), side(1.0)],
    })
    .unwrap()
}

fn page() -> Page {
    let mut data = Table::new("train", &["column", "distinct texts"]);
    data.push(vec!["anchor".to_owned(), "3,256".to_owned()]);
    let mut page = Page::new(vec![run("slow", "2e-5", 0.8), run("fast", "2e-4", 0.9)]);
    page.chosen = 1;
    page.differences = vec![
        Difference {
            key: "t_cosine_accuracy".to_owned(),
            before: 0.7,
            after: 0.9,
            interval: Some((0.15, 0.25)),
        },
        Difference {
            key: "t_dot_accuracy".to_owned(),
            before: 0.6,
            after: 0.95,
            interval: None,
        },
    ];
    page.analysis = Some(analysis());
    page.data = vec![data.finished()];
    page.environment = vec![("processor".to_owned(), "AMD EPYC".to_owned())];
    page.command = "sentune train --config runs/fast/config.toml --output-dir again".to_owned();
    page
}

#[test]
fn every_part_is_there_and_texts_are_escaped() {
    let html = page().html().unwrap();
    for part in [
        "metrics",
        "runs",
        "curves",
        "rows",
        "neighbours",
        "projection",
        "similarities",
        "data",
        "speed",
        "environment",
        "configuration",
    ] {
        assert!(html.contains(&format!("<section id=\"{part}\">")), "{part}");
        assert!(html.contains(&format!("<a href=\"#{part}\">")), "{part}");
    }
    assert!(html.contains("+0.1500 to +0.2500"));
    assert!(html.contains("1 min 5 s"));
    assert!(html.contains("default-src 'none'"));
    assert!(!html.contains("<img"), "a text became an element");
    assert_eq!(html.matches("<script").count(), 1, "a text became a script");
    // Every drawing but those of legends has its numbers.
    let drawings = html.matches("role=\"img\"").count();
    assert!(drawings >= 8, "{drawings}");
    assert_eq!(html.matches("<summary>Numbers</summary>").count(), drawings);
    assert!(!html.contains(">NaN"));
}

#[test]
fn a_page_of_many_long_runs_is_small() {
    let runs = (0..32)
        .map(|i| run(&format!("run-{i:02}"), &format!("{}e-5", i + 1), 0.8))
        .collect();
    let mut page = Page::new(runs);
    page.analysis = Some(analysis());
    let n_bytes = page.html().unwrap().len();
    assert!(n_bytes < 1_000_000, "{n_bytes}");
}

#[test]
fn a_run_that_has_just_begun_has_a_page() {
    let run = Run::parse(&RunFiles {
        name: "new",
        ..RunFiles::default()
    })
    .unwrap();
    let html = Page::new(vec![run]).html().unwrap();
    assert!(html.contains("unfinished"));
    assert!(!html.contains("id=\"curves\""));
}

#[test]
fn runs_shorter_than_their_first_log_entry_are_listed_best_first() {
    let run = |name: &str, after: f64| {
        let results = format!(
            r#"{{"before":{{"m":0.5}},"after":{{"m":{after}}},"primary_metric":"m","train":{{"train_loss":0.4}}}}"#
        );
        let files = RunFiles {
            name,
            config: &format!("learning-rate = {after}\n"),
            results: Some(&results),
            ..RunFiles::default()
        };
        Run::parse(&files).unwrap()
    };
    let runs = vec![run("bad", 0.6), run("good", 0.9), run("fair", 0.8)];
    let html = Page::new(runs).html().unwrap();
    let place = |text: &str| html.find(&format!("<td>{text}</td>")).unwrap();
    assert!(place("good") < place("fair") && place("fair") < place("bad"));
    let column = |text: &str| html.find(&format!(">{text}</button>")).unwrap();
    assert!(column("change") < column("learning-rate"));
    assert!(html.contains("<section id=\"curves\">") && html.contains("no log entries"));
}

/// Before everything else on the page: notes errors and requests that the policy forbids.
const FIRST: &str = "<script>window.__errors=[];\
    addEventListener('error',e=>__errors.push(String(e.message||e.target)),true);\
    addEventListener('securitypolicyviolation',e=>__errors.push('forbidden '+e.blockedURI));</script>";

/// After everything else: sorts the first table by its third column, down and up, and tells what was seen, to the page
/// around it if there is one.
const LAST: &str = "<script>addEventListener('load',()=>{\
    const table=document.querySelector('table.sortable'),button=table.tHead.rows[0].cells[2].firstElementChild;\
    const column=()=>[...table.tBodies[0].rows].map(row=>row.cells[2].textContent).join(',');\
    const seen=[column()];button.click();seen.push(column());button.click();seen.push(column());\
    button.focus();const reached=[...document.querySelectorAll('a,button,summary,.scroll')];\
    const text=JSON.stringify({seen,errors:window.__errors,\
    focused:document.activeElement===button,unreachable:reached.filter(e=>e.tabIndex<0).length,\
    unlabelled:document.querySelectorAll('svg:not([aria-label]):not([aria-hidden])').length,\
    resources:performance.getEntriesByType('resource').length,\
    width:innerWidth,\
    overflow:document.documentElement.scrollWidth-document.documentElement.clientWidth});\
    if(parent!==window)return parent.postMessage(text,'*');\
    const pre=document.createElement('pre');pre.id='probe';pre.textContent=text;\
    document.body.append(pre);});</script>";

/// A page that shows another in a frame as narrow as a phone, since windows have a least width.
const AROUND: &str = "<!doctype html><body><script>addEventListener('message',event=>{\
    const pre=document.createElement('pre');pre.id='probe';pre.textContent=event.data;\
    document.body.append(pre);});</script><iframe src=\"page.html\" width=\"390\" height=\"844\" style=\"border:0\"></iframe>";

#[test]
fn a_browser_shows_it_sorts_and_asks_the_network_for_nothing() {
    let Some(browser) = Browser::find() else {
        eprintln!(
            "skipped: no Chromium here; SENTUNE_INSTALL_BROWSER=1 installs it as root with apt-get"
        );
        return;
    };
    let html = page().html().unwrap();
    for width in [1200, 390] {
        let seen = browser.probe(&html, width);
        assert_eq!(seen["width"], width);
        // Three columns: metric, before, after. The order that was there, then ascending, then descending.
        assert_eq!(seen["seen"][0], "0.9000,0.9500");
        assert_eq!(seen["seen"][1], "0.9000,0.9500");
        assert_eq!(seen["seen"][2], "0.9500,0.9000");
        assert_eq!(seen["errors"], serde_json::json!([]), "at width {width}");
        assert_eq!(seen["resources"], 0);
        assert_eq!(seen["focused"], true);
        assert_eq!(
            seen["unreachable"], 0,
            "a part is out of the keyboard's reach"
        );
        assert_eq!(seen["unlabelled"], 0, "a drawing has no name");
        assert_eq!(
            seen["overflow"], 0,
            "the page is wider than a window of {width}"
        );
    }
    browser.print(&html);
    // The checks can fail: a page that asks for an image is stopped, and says so.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let image = format!(
        "<img src=\"http://{}/x.png\"></main>",
        server.local_addr().unwrap()
    );
    let seen = browser.probe(&html.replace("</main>", &image), 1200);
    let errors = seen["errors"].to_string();
    assert!(errors.contains("forbidden http://127.0.0.1"), "{errors}");
    let asked = server.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(asked, Err(ErrorKind::WouldBlock), "a request left the page");
}

struct Browser {
    program: PathBuf,
    folder: PathBuf,
}

impl Browser {
    /// A Chromium of this machine, or one that is installed where `SENTUNE_INSTALL_BROWSER` is set.
    fn find() -> Option<Self> {
        let found = || {
            ["chromium", "chromium-browser", "google-chrome"]
                .into_iter()
                .flat_map(|name| {
                    let path = std::env::var_os("PATH").unwrap_or_default();
                    std::env::split_paths(&path)
                        .map(move |folder| folder.join(name))
                        .collect::<Vec<_>>()
                })
                .find(|path| path.is_file())
        };
        let program = found().or_else(|| {
            std::env::var_os("SENTUNE_INSTALL_BROWSER")?;
            let install = "apt-get install -y --no-install-recommends chromium || (apt-get update && apt-get install -y --no-install-recommends chromium)";
            let status = Command::new("sh").args(["-c", install]).status();
            eprintln!("installing chromium: {status:?}");
            found()
        })?;
        let folder = std::env::temp_dir().join(format!("sentune-page-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Some(Self { program, folder })
    }

    /// Opens the page in a window of this width, and returns what the probe saw.
    fn probe(&self, html: &str, width: u32) -> serde_json::Value {
        let html = html.replacen("<head>", &format!("<head>{FIRST}"), 1);
        let html = html.replacen("</body>", &format!("{LAST}</body>"), 1);
        let mut page = self.folder.join("page.html");
        fs::write(&page, html).unwrap();
        if width < 500 {
            page = self.folder.join("around.html");
            fs::write(&page, AROUND).unwrap();
        }
        let window = format!("--window-size={width},900");
        // Of virtual time, in which the page around the other hears of it.
        let dom = self.run(
            &["--dump-dom", "--virtual-time-budget=5000", &window],
            &page,
        );
        let start = dom
            .find("<pre id=\"probe\">")
            .expect("the probe wrote nothing")
            + 16;
        let text = &dom[start..start + dom[start..].find("</pre>").unwrap()];
        let text = text
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&");
        serde_json::from_str(&text).unwrap()
    }

    /// Prints the page, with its numbers.
    fn print(&self, html: &str) {
        let (page, pdf) = (self.folder.join("page.html"), self.folder.join("page.pdf"));
        fs::write(&page, html).unwrap();
        let output = format!("--print-to-pdf={}", pdf.display());
        self.run(&["--no-pdf-header-footer", &output], &page);
        let printed = fs::read(pdf).unwrap();
        assert!(
            printed.starts_with(b"%PDF-") && printed.len() > 50_000,
            "{}",
            printed.len()
        );
    }

    /// Runs the browser, whose console has to stay empty, and returns its stdout.
    fn run(&self, action: &[&str], page: &Path) -> String {
        let output = Command::new(&self.program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--disable-dev-shm-usage",
                "--enable-logging=stderr",
            ])
            .args(action)
            .arg(format!(
                "--user-data-dir={}",
                self.folder.join("profile").display()
            ))
            .arg(page)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        // The one message that is expected is that of the forbidden image.
        let messages: Vec<&str> = stderr
            .lines()
            .filter(|line| line.contains("CONSOLE") && !line.contains("Content Security Policy"))
            .collect();
        assert!(messages.is_empty(), "{messages:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
