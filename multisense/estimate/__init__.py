"""What a run will cost, from its configuration alone: parameters, FLOPs, memory, days, devices.

body -> shapes of the sensors; skeleton -> the objective without numbers; flops and memory by closed form; dry_run to check them.
"""
