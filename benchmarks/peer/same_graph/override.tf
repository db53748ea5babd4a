# The same module with the graph that the stacks have: both queues side by side, and joined afterwards. Terraform lays
# it over main.tf (Terraform documentation, "Override Files").

resource "aws_sqs_queue" "main_queue" {
  redrive_policy = null
}

resource "aws_sqs_queue_redrive_policy" "main_queue_redrive_policy" {
  queue_url = aws_sqs_queue.main_queue.url
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letter_queue.arn
    maxReceiveCount     = 5
  })
}
