//! A hub on loopback to push to and to download from, until its input ends, with the files of the named models shown
//! at the end:
//!
//! ```console
//! $ cargo run -p hub --example standin -- org/model
//! HF_ENDPOINT=http://127.0.0.1:40123
//! ```
#![expect(clippy::print_stdout, reason = "a program talks to whoever runs it")]

use std::{env, io};

use hub::standin::StandIn;

fn main() -> io::Result<()> {
    let standin = StandIn::start()?;
    println!("HF_ENDPOINT={}", standin.endpoint());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    for id in env::args().skip(1) {
        let Some(files) = standin.pushed(&id) else {
            println!("{id}: not there");
            continue;
        };
        let (n_commits, is_private) = standin.history(&id).unwrap_or_default();
        println!("{id}: {n_commits} commits, private: {is_private}");
        for (name, (content, is_large)) in files {
            println!("  {name}: {} bytes, large: {is_large}", content.len());
        }
    }
    Ok(())
}
