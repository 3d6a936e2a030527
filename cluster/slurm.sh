#!/bin/bash
# A run on Slurm: `sbatch cluster/slurm.sh arae --data /shared/store --out /shared/runs/first`, from
# an environment with lvtrain[cluster], or from the checkout, that every node sees under one path.
#SBATCH --job-name=lvtrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Three minutes before the end, for a last checkpoint.
#SBATCH --signal=B:TERM@180
set -euo pipefail

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
here=$(hostname --ip-address | awk '{print $1}')
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN

# This script runs on the first node of the job, and so does the driver.
srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
    ray start --head --block --node-ip-address="$here" --port="$port" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats &
nodes=$!
until ray status --address "$here:$port" >/dev/null 2>&1; do
    kill -0 "$nodes" || exit 1
    sleep 1
done
if ((SLURM_NNODES > 1)); then
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --overlap --exclude="$head" \
        ray start --block --address="$here:$port" --num-cpus="$SLURM_CPUS_PER_TASK" &
    until (($(ray status --address "$here:$port" 2>/dev/null | grep -c ' node_') >= SLURM_NNODES))
    do sleep 1; done
fi

python -m lvtrain.cluster.train "$@" --address "$here:$port" --resume auto &
driver=$!
trap 'kill -TERM "$driver"' TERM
status=0
wait "$driver" || status=$?
# A signal ends `wait` before the driver, which has a checkpoint to commit.
if ((status > 128)); then
    status=0
    wait "$driver" || status=$?
fi
exit "$status"
