//! CPU or GPU: finding libtorch's CUDA half, and which device a slot trains on.

use std::{fs, path::PathBuf};

use clap::ValueEnum;
use tch::{Cuda, Device};

const CUDA_LIBRARY: &str = "libtorch_cuda.so";
const CPU_LIBRARY: &str = "libtorch_cpu.so";

/// What `--device` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// CUDA when a usable GPU is there, otherwise the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
}

/// Why the chosen device cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceError {
    /// CUDA was asked for and is not there.
    #[error(
        "--device cuda: libtorch sees no usable GPU; check the driver with nvidia-smi, and that libtorch_cuda.so lies beside \
         libtorch_cpu.so (make setup GPU=1)"
    )]
    NoCuda,
}

/// The devices of a worker: what its slots train on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// The CPU, with this many cores for this process.
    Cpu {
        /// Cores.
        cores: usize,
    },
    /// NVIDIA GPUs.
    Cuda {
        /// How many, at least one.
        gpus: usize,
    },
}

impl Devices {
    /// Looks at what is there. [`load_cuda`] must have run before.
    ///
    /// # Errors
    /// [`DeviceError::NoCuda`] when CUDA was asked for by name and is not there.
    pub fn choose(choice: DeviceChoice) -> Result<Self, DeviceError> {
        let gpus = if choice != DeviceChoice::Cpu && Cuda::is_available() {
            usize::try_from(Cuda::device_count()).unwrap_or(0)
        } else {
            0
        };
        match (choice, gpus) {
            (DeviceChoice::Cuda, 0) => Err(DeviceError::NoCuda),
            (_, 0) => Ok(Self::Cpu { cores: std::thread::available_parallelism().map_or(1, usize::from) }),
            (_, gpus) => Ok(Self::Cuda { gpus }),
        }
    }

    /// Slots when the user names no number: one per core or per GPU.
    pub fn slots_default(self) -> usize {
        match self {
            Self::Cpu { cores } => cores,
            Self::Cuda { gpus } => gpus,
        }
    }

    /// The device of one slot; slots take turns on the GPUs.
    pub fn of_slot(self, slot: usize) -> Device {
        match self {
            Self::Cpu { .. } => Device::Cpu,
            Self::Cuda { gpus } => Device::Cuda(slot % gpus.max(1)),
        }
    }

    /// As the protocol says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu { .. } => "cpu",
            Self::Cuda { .. } => "cuda",
        }
    }
}

/// What became of libtorch's CUDA half.
#[derive(Debug)]
pub enum CudaLibrary {
    /// There is none beside libtorch's CPU half.
    Absent,
    /// It was loaded from here.
    Loaded(PathBuf),
    /// It is there and does not load.
    Refused(PathBuf, libloading::Error),
}

/// Loads libtorch's CUDA half when it lies beside the CPU half, so that one binary serves both kinds of machine: the binary
/// is linked with the CPU half only, and libtorch finds CUDA once the library has registered itself. Call it before anything
/// asks libtorch about CUDA.
pub fn load_cuda() -> CudaLibrary {
    let Some(path) =
        cpu_library().map(|path| path.with_file_name(CUDA_LIBRARY)).filter(|path| path.is_file())
    else {
        return CudaLibrary::Absent;
    };
    // SAFETY: the library's initialisers are libtorch's own, of the build whose CPU half this process runs already; linking
    // with it would run the same code before `main`.
    #[allow(unsafe_code)] // loading any library runs its initialisers
    let library = unsafe { libloading::Library::new(&path) };
    match library {
        Ok(library) => {
            // libtorch keeps pointers into it: it must never be unloaded.
            std::mem::forget(library);
            CudaLibrary::Loaded(path)
        }
        Err(error) => CudaLibrary::Refused(path, error),
    }
}

/// The file that libtorch's CPU half was loaded from, as the kernel lists it.
fn cpu_library() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines()
        .filter_map(|line| line.find('/').and_then(|start| line.get(start..)))
        .map(PathBuf::from)
        .find(|path| path.file_name().is_some_and(|name| name == CPU_LIBRARY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_is_found_where_it_was_loaded_from() {
        // A call into libtorch, so that the linker keeps the dependency.
        assert!(tch::get_num_threads() > 0);
        assert!(cpu_library().is_some_and(|path| path.is_file()));
        assert!(!matches!(load_cuda(), CudaLibrary::Refused(..)));
    }

    #[test]
    fn slots_take_turns_on_the_gpus() {
        let devices = Devices::Cuda { gpus: 2 };
        assert_eq!(devices.of_slot(3), Device::Cuda(1));
        assert_eq!(Devices::Cpu { cores: 4 }.of_slot(3), Device::Cpu);
    }
}
