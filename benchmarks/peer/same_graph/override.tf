# The same module with the graph that the stacks have: both queues side by side, and joined afterwards (redrive.tf).
# Terraform lays it over main.tf (Terraform documentation, "Override Files").

resource "aws_sqs_queue" "main_queue" {
  redrive_policy = null
}
