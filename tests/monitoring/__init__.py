"""The alerts, dashboards and rules of k8s/monitoring, in a real Prometheus and a real Alertmanager."""
