"""The log on local disk: records, segments, index, write-ahead log; see FORMAT.md."""
