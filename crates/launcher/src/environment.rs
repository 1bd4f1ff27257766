//! The Python environment that a program was installed into, by pip or the like.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folders of packages that Python sees beside `program`; none where the program does not come from a wheel.
pub(crate) fn packages(program: &Path) -> Vec<PathBuf> {
    let Some(prefix) = program.parent().and_then(Path::parent) else {
        return Vec::new();
    };
    let mut folders = packages_below(prefix);
    if !folders.iter().any(|folder| has_wheel(folder)) {
        return Vec::new();
    }
    folders.extend(system_packages(prefix));
    folders
}

/// As `lib/python3.12/site-packages` below a prefix.
fn packages_below(prefix: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for lib in ["lib", "lib64"] {
        let entries = fs::read_dir(prefix.join(lib)).into_iter().flatten();
        let is_python = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("python3"))
        };
        let pythons = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(is_python);
        let packages = ["site-packages", "dist-packages"];
        folders.extend(pythons.flat_map(|python| packages.map(|name| python.join(name))));
    }
    folders.retain(|folder| folder.is_dir());
    folders.sort();
    folders
}

/// Whether the wheel of `sentune` was installed into this folder.
fn has_wheel(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.any(|name| name.starts_with("sentune-") && name.ends_with(".dist-info"))
}

/// The packages of the Python that a virtual environment was made with, where the environment includes them.
fn system_packages(prefix: &Path) -> Vec<PathBuf> {
    let config = fs::read_to_string(prefix.join("pyvenv.cfg")).unwrap_or_default();
    let value = |key: &str| {
        config.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == key).then(|| value.trim())
        })
    };
    match (value("include-system-site-packages"), value("home")) {
        (Some("true"), Some(bin)) => {
            let base = Path::new(bin).parent();
            base.map(packages_below).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_of_a_wheel_is_found() {
        let root = tempfile::tempdir().unwrap();
        let [venv, base] = ["venv", "base"].map(|name| root.path().join(name));
        let program = venv.join("bin/sentune");
        let packages_of = |prefix: &Path| prefix.join("lib/python3.12/site-packages");
        for prefix in [&venv, &base] {
            fs::create_dir_all(packages_of(prefix)).unwrap();
        }
        // Not installed as a wheel: whatever lies there is not meant.
        assert_eq!(packages(&program), Vec::<PathBuf>::new());
        fs::create_dir(packages_of(&venv).join("sentune-0.1.0.dist-info")).unwrap();
        assert_eq!(packages(&program), [packages_of(&venv)]);
        let config = format!(
            "home = {}\ninclude-system-site-packages = true\n",
            base.join("bin").display()
        );
        fs::write(venv.join("pyvenv.cfg"), config).unwrap();
        assert_eq!(packages(&program), [packages_of(&venv), packages_of(&base)]);
    }
}
