from executor import Deployment

with Deployment(uses="config.yml", port=54321) as deployment:
    deployment.block()
