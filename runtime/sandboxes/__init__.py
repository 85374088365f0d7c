"""What the pod sandbox RPCs do, a file for each verb."""
