"""What gunicorn serves: `gunicorn -k services.web_worker.YardWorker wsgi:app`."""

from app import create_app

app = create_app()
