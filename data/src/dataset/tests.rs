use std::fs;

use super::*;
use crate::manifest::ProblemKind;

const ESC50_HEADER: &str = "filename,fold,target,category,esc10,src_file,take\n";

/// A folder with these files, empty unless they are lists.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (file, text) in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn esc50(rows: &str, files: &[&str]) -> tempfile::TempDir {
    let root = folder(&[(esc50::LIST, &format!("{ESC50_HEADER}{rows}"))]);
    fs::create_dir(root.path().join(esc50::AUDIO)).unwrap();
    for file in files {
        fs::write(root.path().join(esc50::AUDIO).join(file), b"").unwrap();
    }
    root
}

/// The message of a folder that is refused, without the folder.
fn refusal(root: &Path) -> String {
    let message = Dataset::read(root).unwrap_err().to_string();
    message.replace(&format!("{}/", root.display()), "").replace(&format!("{}", root.display()), ".")
}

fn problems(dataset: &Dataset) -> Vec<(&str, ProblemKind)> {
    dataset.problems.iter().map(|problem| (problem.clip.as_str(), problem.kind)).collect()
}

/// Name, class, fold and source of every clip.
fn clips(dataset: &Dataset) -> Vec<(&str, u16, Option<u32>, &str)> {
    let clips = dataset.clips.iter();
    clips.map(|clip| (clip.name.as_str(), clip.class, clip.fold, clip.source.as_str())).collect()
}

#[test]
fn targets_become_class_indices_in_their_order() {
    let root = esc50(
        "b.wav,1,41,chainsaw,True,7,A\na.ogg,2,0,dog,True,8,A\nc.wav,1,12,fire,False,7,B\n",
        &["a.ogg", "b.wav", "c.wav"],
    );
    for data in [root.path().to_owned(), root.path().join(esc50::LIST)] {
        let dataset = Dataset::read(&data).unwrap();
        assert_eq!(dataset.classes, ["dog", "fire", "chainsaw"]);
        assert_eq!(clips(&dataset), [("b", 2, Some(1), "7"), ("a", 0, Some(2), "8"), ("c", 1, Some(1), "7")]);
        assert_eq!((problems(&dataset), dataset.clips[0].file.as_str()), (vec![], "audio/b.wav"));
    }
}

#[test]
fn untrustworthy_esc50_lists_are_refused() {
    let check = |rows: &str, expected: &str| assert_eq!(refusal(esc50(rows, &[]).path()), expected);
    check("", "meta/esc50.csv names no clip: add a row for every file, or files to the classes' folders");
    check("a.wav,1,0,dog\n", "meta/esc50.csv:2: 4 fields where the first line has 7: complete the row");
    check(
        "a.wav,1,0,dog,True,1,A\nb.wav,one,0,dog,True,1,A\n",
        "meta/esc50.csv:3: field 1: invalid digit found in string (columns are filename,fold,target,category,esc10,src_file,take)",
    );
    check(
        "a.wav,1,0,dog,True,1,A\nb.wav,1,0,cat,True,1,A\n",
        "meta/esc50.csv:3: target 0 is \"cat\" here and \"dog\" on line 2: make them the same",
    );
    check(
        "a.wav,1,0,dog,True,1,A\nb.wav,1,1,dog,True,1,A\n",
        "meta/esc50.csv:3: category \"dog\" has target 1 here and 0 on line 2: make them the same",
    );
    check(
        "a.wav,1,0,dog,True,1,A\na.wav,1,0,dog,True,1,A\n",
        "meta/esc50.csv:3: clip \"a\" is already listed on line 2: remove one of the rows",
    );
    check(
        "a.wav,1,0,dog,True,1,A\na.ogg,1,0,dog,True,1,A\n",
        "meta/esc50.csv:3: \"audio/a.ogg\" would be the clip \"a\", as \"audio/a.wav\" on line 2 is: remove one of them, or give it another name",
    );
    check("a.wav,1,0,,True,1,A\n", "meta/esc50.csv:2: category is empty: name the class");
    for outside in ["../a.wav", "/etc/passwd", "x/a.wav", "..", "a.wav/", "x\\a.wav", "", ".a.wav"] {
        let expected = format!(
            "meta/esc50.csv:2: filename must be the plain name of a file in `audio/`, got {outside:?}"
        );
        check(&format!("{outside},1,0,dog,True,1,A\n"), &expected);
    }
}

#[test]
fn tables_have_labels_and_what_else_they_like() {
    let list = "\u{feff}label,filename,notes\ndog, a b.wav ,x\ncat,deep/er/b.wav,\ndog,./c.ogg,\n";
    let root =
        folder(&[(table::LIST, list), ("a b.wav", ""), ("deep/er/b.wav", ""), ("c.ogg", ""), ("d.wav", "")]);
    let dataset = Dataset::read(root.path()).unwrap();
    assert_eq!(dataset.classes, ["cat", "dog"]);
    let expected = [("a b", 1, None, "a b"), ("deep__er__b", 0, None, "deep__er__b"), ("c", 1, None, "c")];
    assert_eq!(clips(&dataset), expected);
    assert_eq!(problems(&dataset), [("d.wav", ProblemKind::Unlisted)]);

    let list = "filename,label,fold,source\na.wav,dog,3,s\nb.wav,cat,0,\n";
    let root = folder(&[("other.csv", list), ("a.wav", ""), ("b.wav", "")]);
    let dataset = Dataset::read(&root.path().join("other.csv")).unwrap();
    assert_eq!(clips(&dataset), [("a", 1, Some(3), "s"), ("b", 0, Some(0), "b")]);
}

#[test]
fn untrustworthy_tables_are_refused() {
    let check = |list: &str, expected: &str| {
        let message = refusal(folder(&[(table::LIST, list)]).path());
        assert!(message.starts_with(expected), "{message}");
    };
    check("filename,label\n", "clips.csv names no clip");
    check("file,label\na.wav,dog\n", "clips.csv:1: column filename is missing, found \"file,label\"");
    check(
        "filename;label\na.wav;dog\n",
        "clips.csv:1: column filename is missing, found \"filename;label\": separate the columns by commas",
    );
    check(
        "filename,label,Fold\na.wav,dog,1\n",
        "clips.csv:1: column \"Fold\" is not known: did you mean fold?",
    );
    check(
        "filename,label,sources\na.wav,dog,1\n",
        "clips.csv:1: column \"sources\" is not known: did you mean source?",
    );
    check("filename,label,label\na.wav,dog,1\n", "clips.csv:1: column label is there twice");
    check("filename,label,fold\na.wav,dog,\n", "clips.csv:2: fold must be a number from 0, got \"\"");
    check("filename,label\n../a.wav,dog\n", "clips.csv:2: filename must be inside the dataset's folder");
    check("filename,label\na.wav,\"do\ng\"\n", "clips.csv:2: label must be without line ends");
    check(
        "filename,label\na.wav,dog\n./a.wav,cat\n",
        "clips.csv:3: \"a.wav\" is \"cat\" here and \"dog\" on line 2",
    );
    check(
        "filename,label\nx/a.wav,dog\nx__a.wav,dog\n",
        "clips.csv:3: \"x__a.wav\" would be the clip \"x__a\", as \"x/a.wav\" on line 2 is",
    );
    let root = folder(&[]);
    fs::write(root.path().join(table::LIST), b"filename,label\n\xff.wav,dog\n").unwrap();
    assert_eq!(refusal(root.path()), "clips.csv:2: not UTF-8: save the list as UTF-8");
}

#[test]
fn the_number_of_classes_is_limited() {
    let rows: Vec<_> = (0..=CLASSES_MAX).map(|i| format!("{i}.wav,{i}")).collect();
    let root = folder(&[(table::LIST, &format!("filename,label\n{}", rows.join("\n")))]);
    assert_eq!(refusal(root.path()), "clips.csv has more than 4096 classes");
}

#[test]
fn folders_are_classes() {
    let root = folder(&[
        ("dog/1.wav", ""),
        ("dog/2.FLAC", ""),
        ("dog/notes.txt", ""),
        ("cat/1.wav", ""),
        ("猫/é 🐈.mp3", ""),
        (".hidden/x.wav", ""),
        ("README.md", ""),
        ("loose.wav", ""),
    ]);
    let dataset = Dataset::read(root.path()).unwrap();
    assert_eq!(dataset.classes, ["cat", "dog", "猫"]);
    let expected = [
        ("cat__1", 0, None, "cat__1"),
        ("dog__1", 1, None, "dog__1"),
        ("dog__2", 1, None, "dog__2"),
        ("猫__é 🐈", 2, None, "猫__é 🐈"),
    ];
    assert_eq!(clips(&dataset), expected);
    assert_eq!(problems(&dataset), [("loose.wav", ProblemKind::Unlisted)]);
}

#[test]
fn folders_that_are_no_dataset_are_refused() {
    let check = |files: &[&str], expected: &str| {
        let files: Vec<_> = files.iter().map(|file| (*file, "")).collect();
        let message = refusal(folder(&files).path());
        assert!(message.starts_with(expected), "{message}");
    };
    check(&["a.wav"], ".: no list of clips (`meta/esc50.csv` or `clips.csv`) and no folder for a class");
    check(&["audio/a.wav"], ".: `audio/` without a list of its clips");
    check(
        &["train/dog/a.wav"],
        ".: \"train\" holds the folder \"dog\": the folder of a class holds files only",
    );
    check(&["dog/a.wav", "dog/a.ogg"], ".: \"dog/a.wav\" would be the clip \"dog__a\", as \"dog/a.ogg\" is");
    check(&["dog/notes.txt"], ". names no clip");
    check(&["meta/esc50.csv", "clips.csv"], ".: there are two lists, `meta/esc50.csv` and `clips.csv`");
    let message = refusal(Path::new("no/such"));
    assert!(message.contains("a dataset is a folder with `meta/esc50.csv`, with `clips.csv`"), "{message}");
}

#[test]
fn unusable_clips_are_problems() {
    let root = esc50(
        "1-7-A-0.wav,1,0,dog,True,7,A\n1-8-A-0.wav,1,1,cat,True,8,A\ngone.wav,1,1,cat,True,9,A\n1-x-A-5.wav,2,0,dog,True,7,A\nfolder.wav,1,0,dog,True,1,A\n",
        &["1-7-A-0.wav", "1-8-A-0.wav", "1-x-A-5.wav", "extra.wav", ".hidden.wav"],
    );
    fs::create_dir(root.path().join("audio/folder.wav")).unwrap();
    let dataset = Dataset::read(root.path()).unwrap();
    let names: Vec<_> = dataset.clips.iter().map(|clip| clip.name.as_str()).collect();
    assert_eq!(names, ["1-7-A-0", "1-x-A-5"]);
    let expected = [
        ("1-8-A-0", ProblemKind::Mislabelled),
        ("gone", ProblemKind::Missing),
        ("folder", ProblemKind::Missing),
        ("audio/extra.wav", ProblemKind::Unlisted),
    ];
    assert_eq!(problems(&dataset), expected);
    let message = &dataset.problems[1].message;
    assert_eq!(message, "listed on line 4 of meta/esc50.csv, but audio/gone.wav cannot be found");
}

#[test]
fn look_alike_classes_are_a_warning() {
    let root = folder(&[("Dog/1.wav", ""), ("dog/1.wav", "")]);
    let dataset = Dataset::read(root.path()).unwrap();
    assert_eq!((dataset.clips.len(), dataset.warnings.len()), (2, 1));
    assert!(dataset.warnings[0].contains("\"Dog\" and \"dog\""), "{:?}", dataset.warnings);
}

#[test]
fn names_are_found_in_another_unicode_form() {
    let (composed, decomposed) = ("caf\u{e9}", "cafe\u{301}");
    let list = format!("filename,label\n{composed}/{composed}.wav,x\n");
    let file = format!("{decomposed}/{decomposed}.wav");
    let root = folder(&[(table::LIST, &list), (&file, "sound")]);
    let dataset = Dataset::read(root.path()).unwrap();
    assert_eq!((problems(&dataset), dataset.clips.len()), (vec![], 1));
    assert_eq!(fs::read(&dataset.clips[0].path).unwrap(), b"sound");
}

#[cfg(unix)]
mod unix {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn links_that_leave_the_folder_are_refused() {
        let elsewhere = folder(&[("x.wav", "")]);
        let root = esc50("a.wav,1,0,dog,True,1,A\n", &["real.wav"]);
        let link = root.path().join("audio/a.wav");
        symlink(elsewhere.path().join("x.wav"), &link).unwrap();
        let message = refusal(root.path());
        assert!(message.starts_with("meta/esc50.csv:2: \"audio/a.wav\" is a link that leaves"), "{message}");

        fs::remove_file(&link).unwrap();
        symlink("real.wav", &link).unwrap();
        assert_eq!(Dataset::read(root.path()).unwrap().clips.len(), 1);

        let root = folder(&[("cat/1.wav", "")]);
        symlink(elsewhere.path(), root.path().join("dog")).unwrap();
        assert!(
            refusal(root.path()).starts_with(".: \"dog\" is a link that leaves"),
            "{}",
            refusal(root.path())
        );

        let root = folder(&[(table::LIST, "filename,label\ndog/x.wav,dog\n")]);
        symlink(elsewhere.path(), root.path().join("dog")).unwrap();
        assert!(refusal(root.path()).starts_with("clips.csv:2: \"dog\" is a link that leaves"));
    }

    #[test]
    fn links_that_lead_nowhere_or_in_circles_are_missing_files() {
        let root = folder(&[("dog/1.wav", "")]);
        symlink("b.wav", root.path().join("dog/a.wav")).unwrap();
        symlink("a.wav", root.path().join("dog/b.wav")).unwrap();
        symlink("gone", root.path().join("dog/c.wav")).unwrap();
        symlink("..", root.path().join("dog/d.wav")).unwrap();
        let dataset = Dataset::read(root.path()).unwrap();
        assert_eq!(dataset.clips.len(), 1);
        let missing = ["dog__a", "dog__b", "dog__c", "dog__d"].map(|clip| (clip, ProblemKind::Missing));
        assert_eq!(problems(&dataset), missing);

        symlink(".", root.path().join("circle")).unwrap();
        assert!(refusal(root.path()).contains("\"circle\" holds the folder"));
    }

    #[test]
    fn names_that_are_no_text_are_problems() {
        let root = folder(&[("dog/1.wav", ""), ("dog/a\nb.wav", "")]);
        assert!(refusal(root.path()).contains("control characters"), "{}", refusal(root.path()));
        fs::remove_file(root.path().join("dog/a\nb.wav")).unwrap();
        let name = |bytes: &'static [u8]| OsStr::from_bytes(bytes);
        fs::write(root.path().join("dog").join(name(b"\xff.wav")), "").unwrap();
        fs::create_dir(root.path().join(name(b"c\xfft"))).unwrap();
        let dataset = Dataset::read(root.path()).unwrap();
        let expected = [("c\u{fffd}t", ProblemKind::Misnamed), ("dog/\u{fffd}.wav", ProblemKind::Misnamed)];
        assert_eq!((dataset.clips.len(), problems(&dataset)), (1, expected.into()));
    }
}
