"""What runs in the peers' process. Nothing here imports rlcli; each file offers arms for one case."""
