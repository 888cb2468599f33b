"""The commands of this project; the scripts in tools/ and demo/ and train_net.py start them."""
