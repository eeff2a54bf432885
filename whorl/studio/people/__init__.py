"""Who may come in: signing in and out, and the admin's page of people."""
