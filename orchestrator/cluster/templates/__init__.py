"""Files that describe a cluster to Ray's launcher, to Kubernetes and to a container builder."""
