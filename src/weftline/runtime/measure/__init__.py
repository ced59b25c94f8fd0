"""What this machine does, measured: operators, exchanges, disks; and what that says of a plan."""
