"""The parts of the GPU report: correctness, speed, peers, the server."""
