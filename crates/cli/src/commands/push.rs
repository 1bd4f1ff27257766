//! `sentune push`: a trained model to the hub.

use serde_json::json;

use crate::{
    flags::push::PushFlags,
    output::{print, print_json},
    pushing::{Destination, folder_name, model_folder},
    session::Session,
};

/// Pushes the model of a folder in one commit, and prints its page.
pub(crate) fn run(flags: &PushFlags, session: &Session) -> anyhow::Result<()> {
    let folder = model_folder(&flags.folder)?;
    let name = match &flags.name {
        Some(name) => name.clone(),
        None => folder_name(&flags.folder)?,
    };
    let destination = Destination::find(&name, flags.private, session)?;
    let pushed = destination.push(&folder, &flags.commit_message, session)?;
    if flags.json {
        return Ok(print_json(&json!({
            "repository": pushed.repo.to_string(),
            "url": pushed.url,
            "commit": pushed.commit,
            "n_files": pushed.n_files,
        }))?);
    }
    Ok(print(&format!("{}\n", pushed.url))?)
}
