#!/bin/bash
# N machines of 8 GPUs under Slurm: sbatch --nodes 4 configs/accelerate/slurm.sh configs/nodes.yaml runs/nodes
# The job is told two minutes before its end or pre-emption, saves, queues itself again and goes on.
#SBATCH --job-name=multisense
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120
set -euo pipefail

config=${1:?the YAML file of the run}
out=${2:?the folder of the run, on a disk that all machines share}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# The launcher would die of the signal; the processes that it starts listen to it.
srun bash -c "trap '' USR1; accelerate launch --config_file configs/accelerate/fsdp2.yaml \
    --num_machines $SLURM_NNODES --num_processes $((SLURM_NNODES * 8)) --machine_rank \$SLURM_NODEID \
    --main_process_ip $first --main_process_port 29500 \
    -m multisense train $config --out $out --requeue"
