"""The shop as a Flask app, written for gunicorn's gevent worker."""

from gevent import monkey

monkey.patch_all()

import hashlib
import time

from flask import Flask, Response, abort, g, jsonify, redirect, request

app = Flask(__name__)


@app.before_request
def open_shop():
    g.visitor = request.headers.get("X-Visitor", "nobody")


@app.after_request
def sign(response):
    response.headers["X-Shop"] = f"open for {g.visitor}"
    return response


@app.get("/")
def index():
    return "Welcome to the shop"


@app.get("/items/<int:number>")
def item(number):
    if number > 100:
        abort(404)
    return jsonify(number=number, currency=request.args.get("currency", "EUR"))


@app.post("/items")
def add_item():
    if "name" not in request.form:
        abort(400)
    response = redirect(f"/items/{len(request.form['name'])}")
    response.set_cookie("last", request.form["name"], httponly=True)
    return response


@app.post("/orders")
def order():
    return jsonify(items=request.get_json()["items"]), 201


@app.put("/picture")
def picture():
    data = request.get_data()
    return jsonify(size=len(data), digest=hashlib.sha256(data).hexdigest())


@app.get("/last")
def last():
    return f"last: {request.cookies.get('last')}"


@app.get("/export")
def export():
    def lines():
        for number in range(1000):
            yield f"{number},item {number}\n"

    return Response(lines(), mimetype="text/csv")


@app.get("/wait")
def wait():
    time.sleep(float(request.args["s"]))
    return "waited"


@app.get("/fails")
def fails():
    raise RuntimeError("out of stock")
