#!/bin/bash
# Slurm Prolog (slurm.conf: Prolog=...): starts the burst server on every node of a job, unless it runs.
# It is not stopped with the job: a job that is started again finds its copies. An Epilog that knows
# the run is over may remove /dev/shm/burst. The secret is a file that only root and the job can read.
set -euo pipefail

port=7401
secret_file=/etc/weftline/burst.secret

if ! (exec 3<>"/dev/tcp/$(hostname)/$port") 2>/dev/null; then
    WEFTLINE_BURST_SECRET=$(<"$secret_file") \
        setsid nohup weftline burst peer /dev/shm/burst --store /nvme/ckpt \
        --bind "$(hostname)" --port "$port" --capacity 200GB \
        >/var/log/weftline-burst.log 2>&1 </dev/null &
fi

# In the job's script, before srun:
#   export WEFTLINE_BURST_SECRET=$(</etc/weftline/burst.secret)
#   export WEFTLINE_BURST_NODES=$(scontrol show hostnames "$SLURM_NODELIST" | sed "s/\$/:7401/" | xargs)
# and in the program: nodes_from_environment(run=os.environ["SLURM_JOB_NAME"])
