//! Names of files, clips and classes: what may be one.

use std::path::{Component, Path};

use earshot_common::ids::BlobId;

/// Bytes of a clip's name at most. File systems take 255, and exports add `_spec.npy` or `.wav` to it.
pub(super) const CLIP_BYTES_MAX: usize = 200;

/// Bytes of a class's name at most: it labels axes and rows of tables.
const CLASS_BYTES_MAX: usize = 255;

/// Stands between folders in the name of a clip.
const FOLDER_MARK: &str = "__";

/// Hexadecimal digits that tell shortened names apart.
const HASH_DIGITS: usize = 16;

/// Extensions of recordings, including those of formats that are not read: leaving such files out unseen would hide them.
const AUDIO_EXTENSIONS: [&str; 17] = [
    "wav", "wave", "flac", "ogg", "oga", "mp3", "aac", "aif", "aifc", "aiff", "amr", "au", "caf", "m4a",
    "opus", "w64", "wma",
];

/// A file's path inside the dataset, as `folder/file`, without `.` or doubled slashes.
///
/// # Errors
/// What is wrong with it: it leaves the folder, names none, is hidden, or is written as on another system.
pub(super) fn relative(filename: &str) -> Result<String, String> {
    let bad = |what: &str| Err(format!("filename {what}, got {filename:?}"));
    if filename.is_empty() || filename.ends_with('/') {
        return bad("must name a file");
    }
    if filename.contains('\\') {
        return bad("must have / between folders");
    }
    if filename.chars().any(char::is_control) {
        return bad("must be without line ends and other control characters");
    }
    let mut parts = Vec::new();
    for component in Path::new(filename).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str().unwrap_or_default()),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return bad("must be inside the dataset's folder, without .. or a leading /");
            }
        }
    }
    if parts.iter().any(|part| part.starts_with('.')) {
        return bad("must not be hidden (begin with a dot)");
    }
    if parts.is_empty() { bad("must name a file") } else { Ok(parts.join("/")) }
}

/// The name of the clip in a file of this relative path: without extension, folders joined by `__`. A long name is cut and
/// gets a hash of the path, so that it stays its own.
pub(super) fn clip(file: &str) -> String {
    let (folders, last) = file.rsplit_once('/').map_or((None, file), |(folders, last)| (Some(folders), last));
    let stem = last.rsplit_once('.').map_or(last, |(stem, _)| stem);
    let name = match folders {
        Some(folders) => format!("{}{FOLDER_MARK}{stem}", folders.replace('/', FOLDER_MARK)),
        None => stem.to_owned(),
    };
    if name.len() <= CLIP_BYTES_MAX {
        return name;
    }
    let hash = BlobId::of(file.as_bytes()).to_string();
    let end = name.floor_char_boundary(CLIP_BYTES_MAX - HASH_DIGITS - 1);
    format!("{}-{}", name.get(..end).unwrap_or_default(), hash.get(..HASH_DIGITS).unwrap_or_default())
}

/// Whether this may be the name of a class, otherwise what is wrong with it.
///
/// # Errors
/// It is empty, long, or would not fit a line.
pub(super) fn check_class(class: &str) -> Result<(), String> {
    if class.trim().is_empty() {
        Err("is empty: name the class".to_owned())
    } else if class.chars().any(char::is_control) {
        Err(format!("must be without line ends and other control characters, got {class:?}"))
    } else if class.len() > CLASS_BYTES_MAX {
        Err(format!("has {} bytes, at most {CLASS_BYTES_MAX} can be taken: shorten it", class.len()))
    } else {
        Ok(())
    }
}

/// Whether a file's name has the extension of a recording.
pub(super) fn is_audio(filename: &str) -> bool {
    let extension = Path::new(filename).extension().and_then(|extension| extension.to_str());
    extension
        .is_some_and(|extension| AUDIO_EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(filename: &str, expected: Result<&str, &str>) {
        match (relative(filename), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
            (found, expected) => panic!("{filename:?}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn paths_stay_inside() {
        check("a.wav", Ok("a.wav"));
        check("./dog//a b.wav", Ok("dog/a b.wav"));
        check("собака/гав 🐕.flac", Ok("собака/гав 🐕.flac"));
        for outside in ["../a.wav", "/etc/passwd", "dog/../../a.wav", ".."] {
            check(outside, Err("inside the dataset's folder"));
        }
        for none in ["", ".", "dog/"] {
            check(none, Err("must name a file"));
        }
        check("dog\\a.wav", Err("/ between folders"));
        check("a\nb.wav", Err("control characters"));
        check("dog/.a.wav", Err("hidden"));
    }

    #[test]
    fn clips_are_named_by_their_path() {
        assert_eq!(clip("1-100032-A-0.ogg"), "1-100032-A-0");
        assert_eq!((clip("dog/1.wav"), clip("a/b/c.d.wav")), ("dog__1".to_owned(), "a__b__c.d".to_owned()));
        let [long, other] = ["é".repeat(120) + ".wav", "é".repeat(121) + ".wav"].map(|file| clip(&file));
        assert!(long.len() <= CLIP_BYTES_MAX && long != other, "{long}");
    }

    proptest! {
        #[test]
        fn any_text_is_a_safe_name_or_refused(text in any::<String>()) {
            if let Ok(file) = relative(&text) {
                let name = clip(&file);
                prop_assert!(!name.is_empty() && !name.contains('/') && name.len() <= CLIP_BYTES_MAX);
                prop_assert!(!name.starts_with('.'));
                prop_assert_eq!(relative(&file), Ok(file));
            }
        }
    }
}
