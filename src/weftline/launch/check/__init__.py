"""`export --check`: what was written, held against the target's own parser or schema."""

from weftline.launch.check.run import Finding, Report, check_files, check_folder

__all__ = ["Finding", "Report", "check_files", "check_folder"]
