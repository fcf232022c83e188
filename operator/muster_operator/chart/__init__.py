"""The Helm chart's generated half: its values, their schema and page, and copies of CRDs and RBAC rules."""
