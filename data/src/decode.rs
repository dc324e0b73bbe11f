//! WAV, FLAC, Ogg Vorbis and MP3 to samples, by symphonia.
//!
//! The bytes are untrusted: whatever they are, the answer is samples or a [`DecodeError`], within the limits below. A file
//! that ends before its audio does is an error too, since half a clip has another sound than its label.

use std::{
    fs, io,
    io::{Cursor, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use symphonia::core::{
    codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions, well_known::CODEC_ID_VORBIS},
    errors::Error as SymphoniaError,
    formats::{FormatOptions, FormatReader, TrackType, probe::Hint},
    io::{MediaSourceStream, MediaSourceStreamOptions},
    meta::MetadataOptions,
};

use crate::vorbis;

/// Bytes a file may have: a quarter of an hour of CD-quality stereo.
pub const FILE_BYTES_MAX: u64 = 160 * 1024 * 1024;

/// Seconds a file may last: clips are seconds long, and a row of a list that points to a whole recording is a mistake.
pub const DURATION_S_MAX: u32 = 600;

/// Samples of all channels together that a file may decode to: 256 MB of memory a thread.
pub const SAMPLES_MAX: usize = 64 * 1024 * 1024;

/// Samples that a file gets room for at once on its word alone: 4 MB, 24 seconds of 44.1 kHz.
const SAMPLES_HINT_MAX: usize = 1024 * 1024;

/// Channels a file may have.
pub const CHANNELS_MAX: usize = 32;

/// What there may be too much of, where cutting would not help.
const CHANNELS: &str = "channels";
const CODEBOOK_VALUES: &str = "codebook values";

/// Rates a file may have, in hertz; the front end's own range.
pub const SAMPLE_RATES_HZ: std::ops::RangeInclusive<u32> = 1_000..=384_000;

/// Decoded audio.
#[derive(Debug, Clone, PartialEq)]
pub struct Audio {
    /// Frames a second.
    pub sample_rate_hz: u32,
    /// Samples in each frame.
    pub channels: usize,
    /// Samples, full scale ±1, interleaved by channel; all finite, at least one frame.
    pub samples: Vec<f32>,
}

/// Why a file gave no audio.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The file cannot be read.
    #[error("the file cannot be read")]
    Io(#[source] io::Error),
    /// The bytes are of no format that is read.
    #[error("not a WAV, FLAC, Ogg Vorbis or MP3 file ({0}): convert it to one of these")]
    Unknown(String),
    /// The bytes are damaged.
    #[error("the file is damaged ({0}): replace it")]
    Damaged(String),
    /// The file ends before its audio does.
    #[error("the file is cut short{}: replace it", counts(*.frames, *.expected))]
    Truncated {
        /// Frames there are.
        frames: u64,
        /// Frames the file says there are, if it says so.
        expected: Option<u64>,
    },
    /// Valid, but without a single sample.
    #[error("the file holds no sample: remove or replace it")]
    Empty,
    /// A sample that is not a finite number.
    #[error("sample {0} is not a finite number: replace the file")]
    NotFinite(usize),
    /// Larger than the limits of this module.
    #[error("the file has {what} {found}, at most {most} can be taken: {}", mend(what))]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much of it.
        found: u64,
        /// The limit.
        most: u64,
    },
    /// A rate that no recorder uses.
    #[error("the file says it has {0} samples a second, must be from {min} to {max}", min = SAMPLE_RATES_HZ.start(), max = SAMPLE_RATES_HZ.end())]
    Rate(u32),
}

/// What helps against too much of something.
fn mend(what: &str) -> &'static str {
    match what {
        CHANNELS => "mix it down",
        CODEBOOK_VALUES => "encode it anew",
        _ => "cut it into clips",
    }
}

fn counts(frames: u64, expected: Option<u64>) -> String {
    expected.map(|expected| format!(" ({frames} of {expected} samples are there)")).unwrap_or_default()
}

/// Reads a file of at most [`FILE_BYTES_MAX`].
///
/// # Errors
/// [`DecodeError::Io`] or [`DecodeError::TooLarge`].
pub fn read_file(path: &Path) -> Result<Vec<u8>, DecodeError> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(DecodeError::Io)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(DecodeError::Io)?;
    check_most("bytes", bytes.len() as u64, FILE_BYTES_MAX)?;
    Ok(bytes)
}

/// Decodes a file's bytes; the format is told by the bytes, never by a name. For many files see [`Decoder`].
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(bytes: &[u8]) -> Result<Audio, DecodeError> {
    Decoder::default().decode(bytes)
}

/// Decodes one file after another.
///
/// A Vorbis file begins with its encoder's code books, and making tables of them is an eighth of the work of decoding five
/// seconds. Files of one encoder and quality have the same ones, so those of the last file are kept.
#[derive(Default)]
pub struct Decoder {
    vorbis: Option<VorbisDecoder>,
}

/// A decoder for what follows these headers in any file.
struct VorbisDecoder {
    headers: Box<[u8]>,
    decoder: Box<dyn AudioDecoder>,
}

impl Decoder {
    /// Decodes a file's bytes; what came before makes no difference.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Audio, DecodeError> {
        check_most("bytes", bytes.len() as u64, FILE_BYTES_MAX)?;
        // symphonia promises not to panic and nearly keeps it; one clip's panic must not end a preparation of thousands.
        catch_unwind(AssertUnwindSafe(|| self.decode_inner(bytes)))
            .unwrap_or_else(|_| Err(DecodeError::Damaged("the decoder gave up".to_owned())))
    }

    fn decode_inner(&mut self, bytes: &[u8]) -> Result<Audio, DecodeError> {
        let stream =
            MediaSourceStream::new(Box::new(Cursor::new(bytes)), MediaSourceStreamOptions::default());
        let mut reader = symphonia::default::get_probe()
            .probe(&Hint::new(), stream, FormatOptions::default(), MetadataOptions::default())
            .map_err(|error| probe_error(&error, bytes))?;
        let track = reader
            .default_track(TrackType::Audio)
            .ok_or_else(|| DecodeError::Unknown("no audio in it".to_owned()))?;
        let parameters = track
            .codec_params
            .as_ref()
            .and_then(|parameters| parameters.audio())
            .ok_or_else(|| DecodeError::Unknown("an unknown codec".to_owned()))?;
        let headers = parameters.extra_data.clone().filter(|_| parameters.codec == CODEC_ID_VORBIS);
        let mut decoder = self.decoder(parameters, headers.as_deref())?;
        // MP3 without an encoder's tag has no length of its own: symphonia's is then a guess from the first frames.
        let guessed = reader.format_info().short_name == "mp3" && track.delay.is_none();
        let (track_id, expected) = (track.id, track.num_frames.filter(|_| !guessed));

        // What a file says of itself is a hint: room for a clip, never for all that it may claim.
        let room = expected.map_or(0, |frames| frames.min(SAMPLES_HINT_MAX as u64) as usize);
        let audio = read_packets(reader.as_mut(), decoder.as_mut(), track_id, Vec::with_capacity(room))?;
        let frames = (audio.samples.len() / audio.channels.max(1)) as u64;
        if expected.is_some_and(|expected| frames < expected) {
            return Err(DecodeError::Truncated { frames, expected });
        }
        if decoder.finalize().verify_ok == Some(false) {
            return Err(DecodeError::Damaged("its checksum is wrong".to_owned()));
        }
        // A decoder is kept only after a file without errors.
        self.vorbis = headers.map(|headers| VorbisDecoder { headers, decoder });
        match audio.samples.iter().position(|sample| !sample.is_finite()) {
            _ if audio.samples.is_empty() => Err(DecodeError::Empty),
            Some(at) => Err(DecodeError::NotFinite(at)),
            None => Ok(audio),
        }
    }

    /// The decoder of the last file if it had the same headers, or a new one.
    fn decoder(
        &mut self,
        parameters: &AudioCodecParameters,
        headers: Option<&[u8]>,
    ) -> Result<Box<dyn AudioDecoder>, DecodeError> {
        match self.vorbis.take() {
            Some(mut kept) if Some(&*kept.headers) == headers => {
                kept.decoder.reset();
                Ok(kept.decoder)
            }
            _ => {
                let values = vorbis::codebook_values(headers.unwrap_or_default());
                check_most(CODEBOOK_VALUES, values, vorbis::CODEBOOK_VALUES_MAX)?;
                symphonia::default::get_codecs()
                    .make_audio_decoder(parameters, &AudioDecoderOptions::default().verify(true))
                    .map_err(|error| DecodeError::Unknown(error.to_string()))
            }
        }
    }
}

fn read_packets(
    reader: &mut dyn FormatReader,
    decoder: &mut dyn AudioDecoder,
    track: u32,
    samples: Vec<f32>,
) -> Result<Audio, DecodeError> {
    let mut audio = Audio { sample_rate_hz: 0, channels: 0, samples };
    loop {
        let frames = || (audio.samples.len() / audio.channels.max(1)) as u64;
        let packet = match reader.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(audio),
            Err(error) => return Err(packet_error(&error, frames())),
        };
        if packet.track_id != track {
            continue;
        }
        let decoded = decoder.decode(&packet).map_err(|error| packet_error(&error, frames()))?;
        let (rate, channels) = (decoded.spec().rate(), decoded.spec().channels().count());
        if audio.channels == 0 {
            check_most(CHANNELS, channels as u64, CHANNELS_MAX as u64)?;
            if !SAMPLE_RATES_HZ.contains(&rate) {
                return Err(DecodeError::Rate(rate));
            }
            (audio.sample_rate_hz, audio.channels) = (rate, channels);
        } else if (rate, channels) != (audio.sample_rate_hz, audio.channels) {
            return Err(DecodeError::Damaged("rate or channels change within the file".to_owned()));
        }
        let start = audio.samples.len();
        let end = start + decoded.samples_interleaved();
        check_most("samples", end as u64, SAMPLES_MAX as u64)?;
        audio.samples.resize(end, 0.0);
        decoded.copy_to_slice_interleaved(audio.samples.get_mut(start..).unwrap_or_default());
        let seconds = audio.samples.len() as u64 / (audio.channels.max(1) as u64 * u64::from(rate));
        check_most("seconds", seconds, u64::from(DURATION_S_MAX))?;
    }
}

/// A file that starts as one of the formats and ends too early is cut short; anything else is not one of them.
fn probe_error(error: &SymphoniaError, bytes: &[u8]) -> DecodeError {
    let known = [&b"RIFF"[..], b"fLaC", b"OggS"].into_iter().any(|marker| bytes.starts_with(marker));
    match packet_error(error, 0) {
        truncated @ DecodeError::Truncated { .. } if known => truncated,
        _ => DecodeError::Unknown(error.to_string()),
    }
}

fn packet_error(error: &SymphoniaError, frames: u64) -> DecodeError {
    match error {
        SymphoniaError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { frames, expected: None }
        }
        SymphoniaError::ResetRequired => DecodeError::Damaged("several streams one after another".to_owned()),
        other => DecodeError::Damaged(other.to_string()),
    }
}

fn check_most(what: &'static str, found: u64, most: u64) -> Result<(), DecodeError> {
    if found <= most { Ok(()) } else { Err(DecodeError::TooLarge { what, found, most }) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    /// Files of every format that is read.
    const SIGNALS: [&str; 6] = [
        "chirp_22k.flac",
        "chirp_44k.mp3",
        "chirp_44k.ogg",
        "noise_16k.wav",
        "float_96k.wav",
        "stereo_48k.flac",
    ];

    fn signal(file: &str) -> Vec<u8> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/signals").join(file);
        fs::read(path).unwrap()
    }

    /// A WAV header that promises `data_bytes` of 16-bit audio, and `data` after it.
    fn wav(channels: u16, rate_hz: u32, data_bytes: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"RIFF".to_vec();
        bytes.extend((data_bytes.saturating_add(36)).to_le_bytes());
        bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0");
        bytes.extend(channels.to_le_bytes());
        bytes.extend(rate_hz.to_le_bytes());
        bytes.extend((rate_hz * u32::from(channels) * 2).to_le_bytes());
        bytes.extend((channels * 2).to_le_bytes());
        bytes.extend(b"\x10\0data");
        bytes.extend(data_bytes.to_le_bytes());
        bytes.extend(data);
        bytes
    }

    fn check(bytes: &[u8], expected: &str) {
        let message = decode(bytes).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }

    #[test]
    fn channels_come_interleaved() {
        let audio = decode(&wav(2, 8_000, 8, &[0, 64, 0, 0, 0, 0, 0, 192])).unwrap();
        assert_eq!(audio, Audio { sample_rate_hz: 8_000, channels: 2, samples: vec![0.5, 0.0, 0.0, -0.5] });
    }

    #[test]
    fn a_decoder_forgets_the_last_file() {
        let mut decoder = Decoder::default();
        let ogg = signal("chirp_44k.ogg");
        let expected = decode(&ogg).unwrap();
        for file in SIGNALS {
            assert_eq!(decoder.decode(&ogg).unwrap(), expected);
            assert_eq!(decoder.decode(&ogg).unwrap(), expected);
            assert!(decoder.decode(&ogg[..ogg.len() / 2]).is_err());
            assert_eq!(decoder.decode(&signal(file)).unwrap(), decode(&signal(file)).unwrap());
        }
    }

    #[test]
    fn unusable_files_say_why() {
        check(b"", "not a WAV, FLAC, Ogg Vorbis or MP3 file");
        check(b"some text that is no audio", "not a WAV, FLAC, Ogg Vorbis or MP3 file");
        check(&wav(1, 8_000, 0, &[]), "the file holds no sample");
        check(&wav(1, 8_000, 100, &[0; 60]), "the file is cut short");
        check(
            &wav(1, 500, 4, &[0; 4]),
            "the file says it has 500 samples a second, must be from 1000 to 384000",
        );
        check(
            &wav(1, 1_000, 1_202_000, &vec![0; 1_202_000]),
            "the file has seconds 601, at most 600 can be taken",
        );
        let mut damaged = signal("chirp_22k.flac");
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        check(&damaged, "the file is");
    }

    #[test]
    fn no_beginning_of_a_file_passes_for_the_whole() {
        for file in SIGNALS {
            let bytes = signal(file);
            decode(&bytes).unwrap();
            for cut in (1..40).map(|part| bytes.len() * part / 40) {
                // An MP3 is cut at will, and only its encoder's tag tells; one frame may be padding.
                assert!(decode(&bytes[..cut]).is_err(), "{cut} of {} bytes of {file}", bytes.len());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn damage_is_survived(file in 0..SIGNALS.len(), places in proptest::collection::vec((0..20_000_usize, any::<u8>()), 1..20)) {
            let mut bytes = signal(SIGNALS[file]);
            let length = bytes.len();
            for (at, byte) in places {
                bytes[at % length] = byte;
            }
            if let Ok(audio) = decode(&bytes) {
                prop_assert!(audio.samples.iter().all(|sample| sample.is_finite()));
            }
        }

        #[test]
        fn damaged_headers_are_survived(file in 0..SIGNALS.len(), places in proptest::collection::vec((0..64_usize, any::<u8>()), 1..6)) {
            let mut bytes = signal(SIGNALS[file]);
            for (at, byte) in places {
                bytes[at] = byte;
            }
            let _ = decode(&bytes);
        }
    }
}
