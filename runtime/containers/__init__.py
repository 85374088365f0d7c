"""What the container RPCs do, a file for each verb."""
